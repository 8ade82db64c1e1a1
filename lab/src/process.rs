//! Processes, told apart from later ones with the same pid.

use std::{fmt, fs, path::Path, str::FromStr};

use nix::{errno::Errno, sys::signal, unistd::Pid};

use crate::{Error, Result, error::FileContext as _};

/// A process: its pid, and when it started, for a pid is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// When it started, in clock ticks since the machine's boot.
    pub start: u64,
}

impl ProcessId {
    /// The process that has this pid now, as the proc file system at `proc` shows it. `None` if there is none, or
    /// only what is left of one that ended.
    pub(crate) fn now(proc: &Path, pid: i32) -> Option<Self> {
        let dir = proc.join(pid.to_string());
        let (state, start) = state_and_start(&fs::read_to_string(dir.join("stat")).ok()?)?;
        // The first thread of a process that ends may be gone while others still hold files and ports.
        let threads = || fs::read_dir(dir.join("task")).map_or(0, Iterator::count);
        (!matches!(state, 'Z' | 'X') || threads() > 1).then_some(Self { pid, start })
    }

    /// Whether the process still runs, as the proc file system at `proc` shows it.
    pub(crate) fn runs(self, proc: &Path) -> bool {
        Self::now(proc, self.pid) == Some(self)
    }

    /// Whether the process, known by its pid on the machine, still runs.
    pub fn is_alive(self) -> bool {
        self.runs(Path::new("/proc"))
    }

    /// Sends SIGKILL if it still runs.
    pub(crate) fn kill(self) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match signal::kill(Pid::from_raw(self.pid), signal::Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(Error::System { action: format!("kill process {}", self.pid), source: error.into() }),
        }
    }

    /// Reads a file that [`ProcessId::write`] wrote. `None` if there is none, or it was written before a reboot.
    pub(crate) fn read(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (process, boot) = text.trim().rsplit_once(' ')?;
        (boot == boot_id()).then(|| process.parse().ok()).flatten()
    }

    /// Writes a file for [`ProcessId::read`], at once or not at all.
    pub(crate) fn write(self, file: &Path, boot_id: &str) -> Result<()> {
        let new = file.with_extension("new");
        fs::write(&new, format!("{self} {boot_id}\n")).file("write", &new)?;
        fs::rename(&new, file).file("rename", &new)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.start)
    }
}

impl FromStr for ProcessId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pid, start) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Self { pid: pid.parse()?, start: start.parse()? })
    }
}

/// The machine's boot id.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The state and the start time in the text of `/proc/PID/stat`. The second field is the program's name in parentheses,
/// which may hold anything.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4711 (a ) b) S 1 4711 4711 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 10";

    #[test]
    fn start_time_is_field_22_whatever_the_name() {
        assert_eq!(state_and_start(STAT), Some(('S', 987_654)));
    }

    #[test]
    fn what_is_left_of_a_process_that_ended_is_none() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let is_zombie = |stat: String| state_and_start(&stat).is_some_and(|(state, _)| state == 'Z');
        while !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(is_zombie) {
            std::thread::yield_now();
        }
        assert_eq!(ProcessId::now(Path::new("/proc"), pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn own_process_is_alive_and_another_start_time_is_another_process() {
        let own = ProcessId::now(Path::new("/proc"), std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.is_alive());
    }

    #[test]
    fn a_file_of_another_boot_names_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("init");
        let own = ProcessId { pid: 7, start: 9 };
        own.write(&file, &boot_id()).unwrap();
        assert_eq!(ProcessId::read(&file), Some(own));
        fs::write(&file, "7 9 another-boot\n").unwrap();
        assert_eq!(ProcessId::read(&file), None);
    }
}
