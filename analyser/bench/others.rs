//! Other programs on the same documents.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::ROUNDS;

/// Writes each document to a file.
pub(crate) fn write(documents: &[&[u8]], directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let mut files = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let file = directory.join(format!("{index}.xml"));
        std::fs::write(&file, document)?;
        files.push(file);
    }
    Ok(files)
}

/// What the baseline took for the documents that pass its own round trip.
pub(crate) struct Python {
    pub(crate) time: Duration,
    /// Indexes of these documents.
    pub(crate) passed: Vec<usize>,
}

pub(crate) fn python(files: &[PathBuf]) -> anyhow::Result<Python> {
    let interpreter = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let there = Command::new(&interpreter).args(["-c", "import lxml.etree, yaml; yaml.CBaseLoader"]).output();
    let there = there.with_context(|| format!("{}, which PYTHON may name", interpreter.display()))?;
    if !there.status.success() {
        bail!("{} has no lxml or no PyYAML with its C loader", interpreter.display());
    }
    let list = files.first().and_then(|file| file.parent()).context("no documents")?.join("list");
    std::fs::write(&list, files.iter().map(|file| format!("{}\n", file.display())).collect::<String>())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/baseline.py");
    let output = Command::new(&interpreter).arg(&script).arg(ROUNDS.to_string()).arg(&list).output()?;
    if !output.status.success() {
        bail!("{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    }
    let result: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let seconds = result["seconds"].as_f64().context("the baseline printed no seconds")?;
    let passed = serde_json::from_value(result["passed"].clone())?;
    Ok(Python { time: Duration::from_secs_f64(seconds), passed })
}

/// Parse and print by few processes for all files, reading them included.
pub(crate) fn xmllint(files: &[PathBuf]) -> anyhow::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = children_time()?;
        // The command line's length is bounded.
        for files in files.chunks(1000) {
            let status = Command::new("xmllint").arg("--format").args(files).stdout(Stdio::null()).status();
            if !status.context("xmllint (of Debian's package libxml2-utils)")?.success() {
                bail!("xmllint failed");
            }
        }
        best = best.min(children_time()? - start);
    }
    Ok(best)
}

/// CPU time of child processes that have ended: user and system, counted in hundredths of a second.
fn children_time() -> anyhow::Result<Duration> {
    let statistics = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = statistics.rsplit_once(')').context("stat has no name")?;
    let ticks: Result<Vec<u64>, _> = fields.split_whitespace().skip(13).take(2).map(str::parse).collect();
    Ok(Duration::from_millis(10 * ticks?.iter().sum::<u64>()))
}
