//! The program `kubevmm-analyser` as a shell sees it.
#![allow(missing_docs, clippy::unwrap_used)]

mod program;

use std::io::Write;
use std::process::{Command, Stdio};

use program::{directory, said};

const XML: &str = "<domain type='kvm'>\n  <name>a</name>\n</domain>\n";
const YAML: &str = "domain:\n  type: kvm\n  name: a\n";

#[test]
fn standard_input_to_standard_output() {
    assert_eq!(said(&["to-yaml", "-"], XML), (0, YAML.into(), String::new()));
    assert_eq!(said(&["to-xml", "-"], YAML), (0, XML.into(), String::new()));
    let json = said(&["to-yaml", "-", "-o", "json"], XML);
    assert_eq!(json.1, "{\n  \"domain\": {\n    \"type\": \"kvm\",\n    \"name\": \"a\"\n  }\n}\n");
    assert_eq!(said(&["to-xml", "-"], &json.1), (0, XML.into(), String::new()));
}

#[test]
fn errors_are_one_line_with_the_place() {
    let (code, out, error) = said(&["to-yaml", "-"], "<a>\n<b></a>");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.starts_with("standard input: XML, line 2, column 4: "), "{error}");
    assert_eq!(error.lines().count(), 1);
    assert_eq!(said(&["to-yaml"], "").0, 2);
    assert_eq!(said(&["convert", "-"], "").0, 2);
    let (code, _, error) = said(&["to-yaml", "/no/such/file"], "");
    assert_eq!((code, error.as_str()), (1, "/no/such/file: No such file or directory (os error 2)\n"));
}

#[test]
fn a_directory_goes_to_a_directory() {
    let from = directory("cli-from");
    let to = directory("cli-to");
    std::fs::create_dir_all(from.join("inner")).unwrap();
    std::fs::write(from.join("a.xml"), XML).unwrap();
    std::fs::write(from.join("inner/b.xml"), XML).unwrap();
    std::fs::write(from.join("c.xml"), "<a>").unwrap();
    std::fs::write(from.join("notes.txt"), "no document").unwrap();
    let (from, to) = (from.display().to_string(), to.display().to_string());

    let (code, _, error) = said(&["to-yaml", &from], "");
    assert_eq!((code, error.as_str()), (2, "error: 3 files: say where the converted ones go, with --directory DIR\n"));

    let (code, _, error) = said(&["to-yaml", &from, "-d", &to], "");
    let lines: Vec<_> = error.lines().collect();
    assert_eq!((code, lines.len()), (1, 2));
    assert!(lines[0].starts_with(&format!("{from}/c.xml: XML, line 1, column 4: ")), "{error}");
    assert_eq!(lines[1], "2 converted, 1 failed");
    assert_eq!(std::fs::read_to_string(format!("{to}/a.yaml")).unwrap(), YAML);
    assert_eq!(std::fs::read_to_string(format!("{to}/inner/b.yaml")).unwrap(), YAML);

    let (code, _, error) = said(&["to-yaml", &from, &from, "-d", &to], "");
    assert_eq!((code, error), (2, format!("error: {to}/a.yaml: two files would be converted to this one\n")));

    let back = directory("cli-back").display().to_string();
    let (code, _, error) = said(&["to-xml", &to, "-d", &back], "");
    assert_eq!((code, error.as_str()), (0, "2 converted, 0 failed\n"));
    assert_eq!(std::fs::read_to_string(format!("{back}/inner/b.xml")).unwrap(), XML);
}

#[test]
fn validate_takes_both_forms() {
    assert_eq!(said(&["validate", "-"], XML), (0, String::new(), String::new()));
    assert_eq!(said(&["validate", "-"], YAML), (0, String::new(), String::new()));
    let (code, _, error) = said(&["validate", "-"], "domain:\n  tpye: kvm\n  devices:\n    disk: [{}]\n    dsik: {}\n");
    let expected = "standard input: /domain/@tpye: libvirt's schemas have no such attribute here\n\
        standard input: /domain/devices/dsik: libvirt's schemas have no such element here\n";
    assert_eq!((code, error.as_str()), (1, expected));
}

#[test]
fn json_from_and_to_a_directory() {
    let (from, to, back) = (directory("cli-xml"), directory("cli-json"), directory("cli-xml-again"));
    std::fs::write(from.join("a.xml"), XML).unwrap();
    let [from, to, back] = [from, to, back].map(|path| path.display().to_string());
    assert_eq!(said(&["to-yaml", "-o", "json", &from, "-d", &to], ""), (0, String::new(), String::new()));
    assert!(std::fs::read_to_string(format!("{to}/a.json")).unwrap().starts_with("{\n  \"domain\": {"));
    assert_eq!(said(&["to-xml", &to, "-d", &back], ""), (0, String::new(), String::new()));
    assert_eq!(std::fs::read_to_string(format!("{back}/a.xml")).unwrap(), XML);
    let (code, _, error) = said(&["to-yaml", &to], "");
    assert_eq!((code, error), (2, format!("error: {to}: no file in it ends with .xml\n")));
}

#[test]
fn one_bad_document_does_not_keep_the_others_back() {
    let from = directory("cli-one-bad");
    std::fs::write(from.join("a.yaml"), YAML).unwrap();
    std::fs::write(from.join("b.yaml"), "domain:\n  devices:\n    disks: 7\n").unwrap();
    let from = from.display().to_string();
    let (code, _, error) = said(&["validate", &from, "-"], XML);
    assert_eq!(code, 1);
    let expected = format!("{from}/b.yaml: domain.devices.disks: expected a list, found a number\n2 valid, 1 failed\n");
    assert_eq!(error, expected);
}

#[test]
fn a_terminal_shows_progress() {
    let (from, to) = (directory("cli-progress"), directory("cli-progress-to"));
    for name in ["a.xml", "b.xml", "c.xml"] {
        std::fs::write(from.join(name), XML).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_kubevmm-analyser");
    let command = format!("{program} to-yaml {} -d {}", from.display(), to.display());
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown, "\r1/3\r2/3\r3/3\r\x1b[K3 converted, 0 failed\r\n");
}

#[test]
fn a_reader_that_goes_away_is_told_of() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubevmm-analyser"));
    program.args(["to-yaml", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(XML.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "standard input: standard output: Broken pipe (os error 32)\n");
}

#[test]
fn help_has_examples_and_the_exit_codes() {
    let (code, help, _) = said(&["--help"], "");
    assert_eq!(code, 0);
    assert!(help.contains("Exit codes:\n  0  all is well; "), "{help}");
    for command in ["to-yaml", "to-xml", "lift", "lower", "diff", "validate"] {
        assert!(help.contains(command), "{help}");
        let (code, help, _) = said(&[command, "--help"], "");
        assert_eq!(code, 0);
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        assert!(examples.contains(&format!("kubevmm-analyser {command} ")), "{help}");
    }
}
