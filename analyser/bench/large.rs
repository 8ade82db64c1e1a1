//! Large documents: ten times the document takes ten times the time and the memory.

use std::process::Command;

use anyhow::Context;
use kubevmm_analyser::Tree;

use super::{Bound, Goal, Table, round_trip};

/// How much worse the large document of a kind may be than the small one, in time and memory for its size. A quadratic
/// step would be ten times worse.
const AT_MOST: f64 = 2.0;

type Make = fn(usize) -> String;

/// Each kind with the number of its parts in the large document.
const KINDS: [(&str, usize, Make); 4] = [
    ("devices", 55_000, |n| {
        let devices = (0..n).map(|i| {
            format!(
                "    <disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2'/>\n      \
                 <source file='/srv/{i}.qcow2'/>\n      <target dev='vd{i}' bus='virtio'/>\n      \
                 <serial>{i:08}</serial>\n    </disk>\n"
            )
        });
        format!("<domain type='kvm'>\n  <devices>\n{}  </devices>\n</domain>\n", devices.collect::<String>())
    }),
    ("elements of a list", 100_000, |n| format!("<domain><devices>{}</devices></domain>", "<disk/>".repeat(n))),
    ("unknown elements", 100_000, |n| {
        let elements: String = (0..n).map(|i| format!("<a{i}/>")).collect();
        format!("<domain><metadata>{elements}</metadata></domain>")
    }),
    ("unknown attributes", 100_000, |n| {
        let attributes: String = (0..n).map(|i| format!(" a{i}='{i}'")).collect();
        format!("<domain{attributes}/>")
    }),
];

pub(crate) fn measure(table: &mut Table) -> anyhow::Result<()> {
    for (kind, count, make) in KINDS {
        let (small, large) = (make(count / 10), make(count));
        // About as much in all of both, and enough for the clock.
        let times = [round_trip(&[small.as_bytes(); 40])?, round_trip(&[large.as_bytes(); 4])?];
        let each = |cost: f64, bytes: usize| cost / bytes as f64;
        let is = each(times[1].as_secs_f64(), 4 * large.len()) / each(times[0].as_secs_f64(), 40 * small.len());
        table.row(&format!("40 times {} {kind}", count / 10), 40 * small.len(), times[0], None);
        let goal = Goal { what: "times as long for its size", is, bound: Bound::AtMost(AT_MOST) };
        table.row(&format!("4 times {count} {kind}"), 4 * large.len(), times[1], Some(goal));

        let is = each(peak(kind, count)?, large.len()) / each(peak(kind, count / 10)?, small.len());
        table.goal(Goal { what: "times as much memory for its size", is, bound: Bound::AtMost(AT_MOST) });
    }
    Ok(())
}

/// Memory that a process of its own takes for a document at most, in bytes, over what it takes for none.
fn peak(kind: &str, count: usize) -> anyhow::Result<f64> {
    let measure = |count: usize| -> anyhow::Result<f64> {
        let output = Command::new(std::env::current_exe()?).args(["--peak", kind, &count.to_string()]).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    };
    Ok(measure(count)? - measure(0)?)
}

/// The kind and number that this process is to [show the peak](show_peak) of.
pub(crate) fn asked() -> Option<(String, usize)> {
    let mut arguments = std::env::args().skip(1);
    let is_asked = arguments.next().is_some_and(|first| first == "--peak");
    if is_asked { Some((arguments.next()?, arguments.next()?.parse().ok()?)) } else { None }
}

/// Prints how much memory this process took at most, in bytes, to convert a document.
pub(crate) fn show_peak((kind, count): &(String, usize)) -> anyhow::Result<()> {
    let (.., make) = KINDS.iter().find(|(name, ..)| name == kind).context("no such kind")?;
    let document = make(*count);
    let yaml = Tree::from_xml(&document)?.into_canonical().to_yaml();
    std::hint::black_box(Tree::from_yaml(&yaml)?.to_xml());
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    println!("{}", kibibytes * 1024);
    Ok(())
}
