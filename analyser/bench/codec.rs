//! Times the codec beside a Python baseline and xmllint in one run, and shows that large documents stay linear. Times are
//! of the CPU, so that other work on the machine disturbs them little; all use one core.
//!
//! ```sh
//! cargo bench -p kubevmm-analyser --bench codec
//! ```
//!
//! The documents are those of the tests. `PYTHON` names an interpreter with lxml and PyYAML (with its C loader).
#![allow(clippy::unwrap_used)]

#[path = "../tests/apt/mod.rs"]
mod apt;
#[path = "../tests/corpus/mod.rs"]
mod corpus;
mod large;
mod others;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kubevmm_analyser::Tree;

/// Each time is the best of so many rounds.
const ROUNDS: u32 = 3;

fn main() -> anyhow::Result<()> {
    if let Some(kind) = large::asked() {
        return large::show_peak(&kind);
    }
    let mut table = Table::default();
    match corpus::tarball() {
        Ok(_) => compare(&corpus::documents(), &mut table)?,
        Err(why) => println!("not compared with others: {why}"),
    }
    large::measure(&mut table)?;
    if table.has_missed {
        std::process::exit(1);
    }
    Ok(())
}

/// Ours, the baseline and xmllint on the same documents.
fn compare(documents: &[corpus::Document], table: &mut Table) -> anyhow::Result<()> {
    // What is not well formed is nobody's to convert.
    let documents: Vec<&[u8]> =
        documents.iter().map(|document| &*document.bytes).filter(|bytes| Tree::from_bytes(bytes).is_ok()).collect();
    let bytes = documents.iter().map(|bytes| bytes.len()).sum();
    println!("{} documents of libvirt's tests; best of {ROUNDS} rounds", documents.len());
    let ours = round_trip(&documents)?;
    let speed = bytes as f64 / 1e6 / ours.as_secs_f64();
    table.row(
        "ours: to_yaml + to_xml",
        bytes,
        ours,
        Some(Goal { what: "MB/s", is: speed, bound: Bound::AtLeast(50.0) }),
    );

    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    let files = others::write(&documents, &directory)?;
    match others::xmllint(&files) {
        Ok(theirs) => {
            let factor = ours.as_secs_f64() / theirs.as_secs_f64();
            let goal = Goal { what: "times as long takes ours", is: factor, bound: Bound::AtMost(3.0) };
            table.row("xmllint: parse + print", bytes, theirs, Some(goal));
        }
        Err(why) => println!("xmllint is not compared: {why:#}"),
    }
    match others::python(&files) {
        Ok(theirs) => {
            let passing: Vec<&[u8]> = theirs.passed.iter().map(|index| documents[*index]).collect();
            let bytes = passing.iter().map(|bytes| bytes.len()).sum();
            let name = format!("Python: the {} that it gets right", passing.len());
            table.row(&name, bytes, theirs.time, None);
            let ours = round_trip(&passing)?;
            let factor = theirs.time.as_secs_f64() / ours.as_secs_f64();
            let goal = Goal { what: "times as fast as Python", is: factor, bound: Bound::AtLeast(20.0) };
            table.row("ours: the same documents", bytes, ours, Some(goal));
        }
        Err(why) => println!("Python is not compared: {why:#}"),
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// XML to YAML and that YAML to XML, of all documents.
fn round_trip(documents: &[&[u8]]) -> anyhow::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = own_time()?;
        for document in documents {
            let yaml = Tree::from_bytes(document)?.into_canonical().to_yaml();
            std::hint::black_box(Tree::from_yaml(&yaml)?.to_xml());
        }
        best = best.min(own_time()? - start);
    }
    Ok(best)
}

/// CPU time of this process: the first number of the kernel's schedstat, in nanoseconds.
fn own_time() -> anyhow::Result<Duration> {
    let statistics = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(Duration::from_nanos(statistics.split_whitespace().next().context("schedstat is empty")?.parse()?))
}

/// The rows that have been printed.
#[derive(Default)]
struct Table {
    has_missed: bool,
}

/// What must be reached.
struct Goal {
    what: &'static str,
    is: f64,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Table {
    fn row(&mut self, name: &str, bytes: usize, time: Duration, goal: Option<Goal>) {
        let (megabytes, seconds) = (bytes as f64 / 1e6, time.as_secs_f64());
        println!("{name:<38} {megabytes:>6.1} MB {:>9.1} ms {:>7.1} MB/s", seconds * 1e3, megabytes / seconds);
        if let Some(goal) = goal {
            self.goal(goal);
        }
    }

    fn goal(&mut self, Goal { what, is, bound }: Goal) {
        let (is_reached, goal) = match bound {
            Bound::AtLeast(least) => (is >= least, format!("at least {least}")),
            Bound::AtMost(most) => (is <= most, format!("at most {most}")),
        };
        self.has_missed |= !is_reached;
        println!("  {is:.2} {what}; goal: {goal}{}", if is_reached { "" } else { ", MISSED" });
    }
}
