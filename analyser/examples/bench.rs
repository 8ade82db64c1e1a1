//! Times the codec beside a Python baseline and xmllint in one run. Times are of the CPU, so that other work on the
//! machine disturbs them little; all three use one core.
//!
//! ```sh
//! cargo run --release -p kubevmm-analyser --example bench -- DIRECTORY
//! ```
//!
//! DIRECTORY holds XML documents, at any depth. `PYTHON` names an interpreter with lxml and PyYAML (with its C loader).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use kubevmm_analyser::Tree;

/// Each time is the best of so many rounds.
const ROUNDS: u32 = 3;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).context("usage: bench DIRECTORY")?;
    let mut paths = Vec::new();
    collect(&directory, &mut paths)?;
    paths.sort();
    // What is not well formed is nobody's to convert.
    let mut documents = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path)?;
        if Tree::from_bytes(&bytes).is_ok() {
            documents.push(bytes);
            files.push(path);
        }
    }
    let bytes: usize = documents.iter().map(Vec::len).sum();
    println!("{} documents, {:.1} MB; best of {ROUNDS} rounds", documents.len(), bytes as f64 / 1e6);

    let ours = ours(&documents)?;
    row("kubevmm-analyser", ours, bytes, None);
    let python = python(&files)?;
    row("Python, lxml + PyYAML (C)", python.time, python.bytes, None);
    println!("  ({} of the documents pass the baseline's own round trip and were timed)", python.documents);
    let passing = time_of(&documents, &files, &python.passed)?;
    let factor = python.time.as_secs_f64() / passing.as_secs_f64();
    row("kubevmm-analyser on these", passing, python.bytes, Some(format!("{factor:.1} times as fast")));
    let xmllint = xmllint(&files)?;
    let factor = ours.as_secs_f64() / xmllint.as_secs_f64();
    row("xmllint, parse + print", xmllint, bytes, Some(format!("ours takes {factor:.2} times as long")));
    Ok(())
}

fn row(name: &str, time: Duration, bytes: usize, note: Option<String>) {
    let seconds = time.as_secs_f64();
    let speed = bytes as f64 / 1e6 / seconds;
    println!("{name:<28} {:>9.1} ms {speed:>7.1} MB/s  {}", seconds * 1e3, note.unwrap_or_default());
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|e| e == "xml") {
            paths.push(path);
        }
    }
    Ok(())
}

/// XML to YAML and that YAML to XML, of all documents.
fn ours(documents: &[Vec<u8>]) -> anyhow::Result<Duration> {
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

/// CPU time of child processes that have ended: user and system, counted in hundredths of a second.
fn children_time() -> anyhow::Result<Duration> {
    let statistics = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = statistics.rsplit_once(')').context("stat has no name")?;
    let ticks: Result<Vec<u64>, _> = fields.split_whitespace().skip(13).take(2).map(str::parse).collect();
    Ok(Duration::from_millis(10 * ticks?.iter().sum::<u64>()))
}

fn time_of(documents: &[Vec<u8>], files: &[PathBuf], passed: &[String]) -> anyhow::Result<Duration> {
    let passed: std::collections::HashSet<&str> = passed.iter().map(String::as_str).collect();
    let chosen: Vec<Vec<u8>> = files
        .iter()
        .zip(documents)
        .filter(|(file, _)| passed.contains(&*file.to_string_lossy()))
        .map(|(_, document)| document.clone())
        .collect();
    ours(&chosen)
}

struct Python {
    time: Duration,
    bytes: usize,
    documents: usize,
    passed: Vec<String>,
}

fn python(files: &[PathBuf]) -> anyhow::Result<Python> {
    let interpreter = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/baseline.py");
    let list = files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join("\n");
    let file = tempfile(&list)?;
    let output = Command::new(&interpreter).arg(&script).arg(ROUNDS.to_string()).arg(&file).output()?;
    std::fs::remove_file(&file)?;
    if !output.status.success() {
        bail!("the baseline: {}", String::from_utf8_lossy(&output.stderr));
    }
    let result: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| result[key].as_f64().with_context(|| format!("the baseline printed no {key}"));
    let passed: Vec<String> = serde_json::from_value(result["passed"].clone())?;
    Ok(Python {
        time: Duration::from_secs_f64(number("seconds")?),
        bytes: number("bytes")? as usize,
        documents: passed.len(),
        passed,
    })
}

/// A new file with this content.
fn tempfile(content: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("kubevmm-bench-{}", std::process::id()));
    std::fs::write(&path, content)?;
    Ok(path)
}

/// Parse and print by few processes for all files, reading them included.
fn xmllint(files: &[PathBuf]) -> anyhow::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = children_time()?;
        // The command line's length is bounded.
        for files in files.chunks(1000) {
            let mut command = Command::new("xmllint");
            let status = command.arg("--format").args(files).stdout(std::process::Stdio::null()).status();
            if !status.context("xmllint (package libxml2-utils)")?.success() {
                bail!("xmllint failed");
            }
        }
        best = best.min(children_time()? - start);
    }
    Ok(best)
}
