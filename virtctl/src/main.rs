//! `virtctl`, which is also `kubectl virt`: the command line for virtual machines.
//!
//! Pure modules decide what is written ([`power`], [`manifest`], [`import`]), how far a VM is ([`goal`]) and what is printed
//! ([`list`], [`describe`], [`domains`], [`node`], [`export`], [`reach`]); [`commands`] reads, writes and prints; [`cluster`] and [`wait`] talk to the API
//! server.

mod cli;
mod cluster;
mod commands;
mod describe;
mod domains;
mod duration;
mod error;
mod export;
mod goal;
mod hardware;
mod host;
mod import;
mod list;
mod manifest;
mod near;
mod node;
mod output;
mod power;
mod reach;
mod resolve;
mod table;
#[cfg(test)]
mod testing;
mod wait;

use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{CommandFactory as _, FromArgMatches as _};

use cli::{Cli, Command};
use error::Error;
use power::Verb;

static PROGRAM: OnceLock<&'static str> = OnceLock::new();

/// The name that people call this command by, for advice.
pub(crate) fn program() -> &'static str {
    PROGRAM.get().copied().unwrap_or("virtctl")
}

/// How the command is called: as a plugin of kubectl when its file is named so.
fn called_as(file: &str) -> &'static str {
    let name = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if matches!(name, "kubectl-virt" | "kubectl_virt") { "kubectl virt" } else { "virtctl" }
}

fn main() -> ExitCode {
    let name = *PROGRAM.get_or_init(|| called_as(&std::env::args().next().unwrap_or_default()));
    let cli = match definition(name).bin_name(name).try_get_matches().and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        // Help and version end with 0, wrong usage with 2.
        Err(error) => error.exit(),
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("the program cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(run(&cli)));
    match done {
        Ok(code) => code,
        Err(error) => {
            commands::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The arguments, as a program of this name takes them.
fn definition(program: &str) -> clap::Command {
    Cli::command().mut_subcommand("convert", |convert| commands::convert::with_own_examples(convert, program))
}

async fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let cluster = async || cluster::connect(&cli.target).await;
    let done = match &cli.command {
        Command::Start(args) => commands::power::run(&cluster().await?, Verb::Start, args, false).await,
        Command::Stop(args) => commands::power::run(&cluster().await?, Verb::Stop, &args.power, args.force).await,
        Command::Restart(args) => commands::power::run(&cluster().await?, Verb::Restart, &args.power, args.force).await,
        Command::List(args) => commands::list::run(&cluster().await?, args).await,
        Command::Domains(args) => commands::domains::run(&cluster().await?, args).await,
        Command::Node(command) => commands::node::run(&cli.target, command).await,
        Command::Import(args) => commands::import::run(&cluster().await?, args).await,
        Command::ExportXml(args) => commands::export::run(&cluster().await?, args).await,
        Command::Describe(args) => commands::describe::run(&cluster().await?, args).await,
        Command::Run(args) => commands::run::run(&cli.target, args).await,
        Command::Version(args) => commands::version::run(&cli.target, args).await,
        Command::Completion { shell } => completion(*shell),
        Command::Convert(convert) => return Ok(commands::convert::run(convert)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn completion(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "virtctl", &mut script);
    output::emit(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_of_kubectl_by_its_file_name() {
        assert_eq!(called_as("/usr/local/bin/kubectl-virt"), "kubectl virt");
        assert_eq!(called_as("kubectl-virt.exe"), "kubectl virt");
        assert_eq!(called_as("./virtctl"), "virtctl");
    }
}
