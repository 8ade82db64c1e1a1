//! What remains of a lab: only one `up` or `down` at a time, and everything goes.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{Error, Options, Result, cgroup::Cgroups, error::FileContext as _, host, process, switch};

/// Written at the end of `up`: its absence tells of one that was broken off.
pub(crate) fn up_mark(options: &Options) -> PathBuf {
    options.dir.join("up")
}

pub(crate) fn is_up(options: &Options) -> bool {
    fs::read_to_string(up_mark(options)).is_ok_and(|boot| boot == process::boot_id()) && switch::find(options).is_some()
}

pub(crate) fn lock_path(dir: &Path) -> PathBuf {
    dir.with_extension("lock")
}

/// Only one `up` or `down` of a lab at a time. The lock goes with the process.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    let path = lock_path(dir);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).file("create", parent)?;
    }
    loop {
        let file = File::create(&path).file("create", &path)?;
        file.lock().file("lock", &path)?;
        // Whoever had it may have removed it meanwhile.
        let inode = file.metadata().file("look at", &path)?.ino();
        if fs::metadata(&path).is_ok_and(|now| now.ino() == inode) {
            return Ok(file);
        }
    }
}

/// Marks the directory of the hosts' disks as ours, to be removed.
pub(crate) fn disks_mark(options: &Options) -> PathBuf {
    options.disks().join("kubevmm-lab")
}

/// Ends all processes, then removes what they used. The options' file goes last, so that a broken-off run can be
/// repeated.
pub(crate) fn remove(options: &Options) -> Result<()> {
    let mark = up_mark(options);
    if mark.exists() {
        fs::remove_file(&mark).file("remove", mark)?;
    }
    host::end_group(&Cgroups::of_machine()?, options, None)?;
    switch::wait_gone(options)?;
    remove_disks(options)?;
    let entries = fs::read_dir(&options.dir).file("read", &options.dir)?;
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.file_name() != Some(OsStr::new("lab.json")) {
            let removed =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.file("remove", path)?;
        }
    }
    fs::remove_dir_all(&options.dir).file("remove", &options.dir)
}

/// Removes what a lab left whose state directory is gone, as after a reboot of the machine. A directory that the lab
/// did not make is left alone, and not used.
pub(crate) fn remove_rest(options: &Options) -> Result<()> {
    remove_disks(options)?;
    for (option, dir) in [("--dir", &options.dir), ("--disks", &options.disks())] {
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            let reason =
                format!("{} is there already, and is not the lab's; remove it or choose another one", dir.display());
            return Err(Error::Option { option, reason });
        }
    }
    Ok(())
}

fn remove_disks(options: &Options) -> Result<()> {
    let disks = options.disks();
    if disks_mark(options).exists() { fs::remove_dir_all(&disks).file("remove", disks) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> Options {
        Options { dir: dir.join("state"), disks: dir.join("disks"), ..Options::default() }
    }

    #[test]
    fn disks_that_a_reboot_of_the_machine_has_left_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        fs::create_dir_all(options.disks().join("h1/upper")).unwrap();
        fs::write(disks_mark(&options), "").unwrap();
        remove_rest(&options).unwrap();
        assert!(!options.disks().exists());
    }

    #[test]
    fn a_directory_of_somebody_else_is_neither_removed_nor_used() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        for (foreign, option) in [(options.disks(), "--disks"), (options.dir.clone(), "--dir")] {
            fs::create_dir_all(&foreign).unwrap();
            let file = foreign.join("letters");
            fs::write(&file, "mine").unwrap();
            assert!(remove_rest(&options).unwrap_err().to_string().contains(option));
            assert!(file.exists());
            fs::remove_dir_all(&foreign).unwrap();
        }
    }

    #[test]
    fn the_lock_is_free_again_when_its_holder_removed_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = lock(&state).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&state).map(drop));
            fs::remove_file(lock_path(&state)).unwrap();
            drop(first);
            second.join().unwrap().unwrap();
        });
        assert!(lock_path(&state).exists());
    }
}
