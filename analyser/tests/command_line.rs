//! The program `kubevmm-analyser` as a shell sees it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const XML: &str = "<domain type='kvm'>\n  <name>a</name>\n</domain>\n";
const YAML: &str = "domain:\n  type: kvm\n  name: a\n";

fn run(arguments: &[&str], input: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubevmm-analyser"));
    program.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Exit code, standard output and standard error.
fn said(arguments: &[&str], input: &str) -> (i32, String, String) {
    let output = run(arguments, input);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

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
    assert_eq!(run(&["to-yaml"], "").status.code(), Some(2));
    assert_eq!(run(&["convert", "-"], "").status.code(), Some(2));
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
