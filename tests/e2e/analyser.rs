//! What the analyser makes of a domain, as a real libvirt sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kubevmm_analyser::Tree;
use kubevmm_analyser::lift::{Vocabulary, lift_with};
use kubevmm_tests::{Host, Space};

use crate::corpus;

kubevmm_tests::stories! { alone: false;
    libvirt_sees_no_difference_after_a_round_trip,
}

/// Domains of libvirt's own tests that the lab's libvirt defines, at least: those of QEMU on x86 without KVM. A newer QEMU
/// may miss machine types of some.
const ACCEPTED: usize = 1250;
/// In the host.
const DIRECTORY: &str = "/run/analyser";
/// A driver of virsh's own with its files below the directory: the host's libvirtd, its events and who watches them have
/// nothing to do with this.
const DRIVER: &str = "qemu:///embed?root=/run/analyser/libvirt";
/// Stands before each document in what virsh prints.
const MARKER: &str = "=== document ";
/// Bytes of commands for one virsh; the kernel takes twice as many as one argument.
const AT_ONCE: usize = 64 << 10;

/// A domain in all forms that must be the same to libvirt.
struct Domain {
    /// Where the corpus has it.
    file: String,
    name: String,
    /// As it is, from YAML, and lowered after it was lifted.
    forms: [Vec<u8>; 3],
}

impl Domain {
    /// `None` for what is no domain, or has no name: libvirt refuses it.
    fn of(document: corpus::Document) -> Option<Result<Self>> {
        let tree = Tree::from_bytes(&document.bytes).ok().filter(|tree| tree.root.name() == "domain")?;
        let name = tree.root.text_at(&["name"])?.into_owned();
        let forms = || -> Result<_> {
            let from_yaml = Tree::from_yaml(&tree.canonical().to_yaml())?.to_xml();
            let lowered = lift_with(&tree, Vocabulary::Spec, None)?.lower()?.to_xml();
            Ok([document.bytes, from_yaml.into_bytes(), lowered.into_bytes()])
        };
        let file = document.name;
        Some(forms().with_context(|| file.clone()).map(|forms| Self { file, name, forms }))
    }

    /// Defines each form, shows what libvirt has then, and takes it away again.
    fn commands(&self, number: usize) -> String {
        let name = self.name.replace('\\', "\\\\").replace('"', "\\\"");
        let of_form = |form| {
            format!(
                "echo {MARKER}{number}.{form}\ndefine {DIRECTORY}/{number}.{form}\ndumpxml --inactive \"{name}\"\n\
                 undefine \"{name}\" --keep-nvram --keep-tpm\n"
            )
        };
        (0..self.forms.len()).map(of_form).collect()
    }

    /// What libvirt has of each form, without what it makes up anew each time: UUIDs and MAC addresses that the document
    /// does not say.
    fn without_chance(&self, dump: &str) -> String {
        let source = String::from_utf8_lossy(&self.forms[0]).to_lowercase();
        let delimiters = ['\'', '"', '<', '>'];
        let masked = |piece: &str| {
            let value = piece.trim_end_matches(delimiters);
            if is_made_up(value) && !source.contains(value) { piece.replace(value, "*") } else { piece.to_owned() }
        };
        dump.trim().split_inclusive(delimiters).map(masked).collect()
    }
}

/// Whether a text looks like a UUID or a MAC address.
fn is_made_up(text: &str) -> bool {
    let groups = |separator: char| -> Vec<usize> {
        let is_hex = |group: &str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
        text.split(separator).map(|group| if is_hex(group) { group.len() } else { 0 }).collect()
    };
    groups('-') == [8, 4, 4, 4, 12] || groups(':') == [2; 6]
}

fn libvirt_sees_no_difference_after_a_round_trip(space: &Space) -> Result<()> {
    let domains: Vec<Domain> = corpus::documents().into_iter().filter_map(Domain::of).collect::<Result<_>>()?;
    let host = space.cluster.host("h1");
    let start = Instant::now();
    bring(space, &host, &domains)?;
    let all: Vec<String> = domains.iter().enumerate().map(|(number, domain)| domain.commands(number)).collect();
    let mut said = String::new();
    for commands in batches(&all) {
        // Its exit code is that of the last command.
        let commands = format!("{commands}echo");
        said += &space.cluster.lab.exec(host.name, ["virsh", "-q", "-c", DRIVER, &commands])?;
    }
    let left = host.sh(&format!("virsh -q -c '{DRIVER}' list --all --name && rm -r {DIRECTORY}"))?;
    ensure!(left.trim().is_empty(), "domains were left behind, and hid others:\n{left}");

    let (mut accepted, mut different) = (0, Vec::new());
    let sections: Vec<&str> = said.split(MARKER).skip(1).collect();
    ensure!(sections.len() == 3 * domains.len(), "virsh answered for {} forms", sections.len());
    for (domain, sections) in domains.iter().zip(sections.chunks(3)) {
        let dumps: Vec<String> = sections
            .iter()
            .map(|section| domain.without_chance(section.find('<').map_or("", |at| &section[at..])))
            .collect();
        let Some((was, others)) = dumps.split_first().filter(|(was, _)| !was.is_empty()) else { continue };
        accepted += 1;
        different.extend(others.iter().filter(|is| *is != was).map(|is| format!("{}:\n{was}\n{is}", domain.file)));
    }
    println!("libvirt defines {accepted} of {} domains ({:.1} s)", domains.len(), start.elapsed().as_secs_f64());
    ensure!(
        different.is_empty(),
        "{} of {accepted} are not the same:\n{}",
        different.len(),
        different[..different.len().min(3)].join("\n")
    );
    ensure!(accepted >= ACCEPTED, "only {accepted} domains are defined");
    Ok(())
}

/// As many commands at a time as one virsh takes.
fn batches(commands: &[String]) -> Vec<String> {
    let mut batches: Vec<String> = Vec::new();
    for commands in commands {
        match batches.last_mut() {
            Some(batch) if batch.len() + commands.len() <= AT_ONCE => batch.push_str(commands),
            _ => batches.push(commands.clone()),
        }
    }
    batches
}

/// Writes all documents into the host, in one go.
fn bring(space: &Space, host: &Host, domains: &[Domain]) -> Result<()> {
    let directory: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("analyser-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    for (number, domain) in domains.iter().enumerate() {
        for (form, bytes) in domain.forms.iter().enumerate() {
            fs::write(directory.join(format!("{number}.{form}")), bytes)?;
        }
    }
    host.sh(&format!("mkdir -p {DIRECTORY}/libvirt"))?;
    let mut pack = Command::new("tar").arg("-cC").arg(&directory).arg(".").stdout(Stdio::piped()).spawn()?;
    let packed = pack.stdout.take().context("tar has no output")?;
    let mut unpack = space.cluster.lab.command(host.name)?;
    let unpacked = unpack.args(["tar", "-xC", DIRECTORY]).stdin(packed).status()?;
    ensure!(pack.wait()?.success() && unpacked.success(), "the documents do not get into {}", host.name);
    Ok(fs::remove_dir_all(&directory)?)
}
