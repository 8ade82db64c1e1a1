//! `convert`: the analyser's command line. It asks no cluster.

use std::process::ExitCode;

use kubevmm_analyser::cli::{self, Convert};

/// Runs it; its exit codes are its own.
pub(crate) fn run(convert: &Convert) -> ExitCode {
    cli::run(convert)
}

/// The definition of `convert` with the examples as this program is called.
pub(crate) fn with_own_examples(convert: clap::Command, program: &str) -> clap::Command {
    let own = format!("{program} convert");
    convert.mut_subcommands(|command| match command.get_after_help() {
        Some(help) => {
            let help = help.to_string().replace("kubevmm-analyser", &own);
            command.after_help(help)
        }
        None => command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn each_example_is_a_command_of_this_program() {
        let program =
            with_own_examples(crate::cli::Cli::command().find_subcommand("convert").unwrap().clone(), "virtctl");
        for command in program.get_subcommands() {
            let help = command.get_after_help().unwrap().to_string();
            assert!(help.contains(&format!("virtctl convert {}", command.get_name())), "{help}");
            assert!(!help.contains("analyser"), "{help}");
        }
    }

    #[test]
    fn a_domain_is_converted_without_a_cluster() {
        let directory = std::env::temp_dir().join(format!("virtctl-convert-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name).display().to_string();
        let convert = |arguments: &[&str]| {
            let all = ["virtctl", "convert"].iter().chain(arguments).copied();
            let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(all).unwrap();
            let crate::cli::Command::Convert(convert) = cli.command else { panic!("convert") };
            run(&convert)
        };
        let xml = "<domain type='kvm'>\n  <name>a</name>\n</domain>\n";
        std::fs::write(path("a.xml"), xml).unwrap();
        assert_eq!(convert(&["lift", &path("a.xml"), "-d", &path("lifted")]), ExitCode::SUCCESS);
        assert_eq!(convert(&["lower", &path("lifted/a.yaml"), "-d", &path("back")]), ExitCode::SUCCESS);
        assert_eq!(std::fs::read_to_string(path("back/a.xml")).unwrap(), xml);
        std::fs::write(path("b.xml"), xml.replace("kvm", "qemu")).unwrap();
        assert_eq!(convert(&["diff", &path("a.xml"), &path("b.xml")]), ExitCode::from(1));
        assert_eq!(convert(&["validate", &path("c.xml")]), ExitCode::from(1));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
