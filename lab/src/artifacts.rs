//! What the lab runs, built once and kept outside the work tree by content: the hosts' root file system, Kubernetes,
//! the guest image.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Instant,
};

use sha2::{Digest as _, Sha256};
use tracing::info;

use crate::{Error, Result, command, container_image, error::FileContext as _};

mod debian;

const ROOT_PACKAGES: &str = include_str!("../rootfs/packages.txt");
const ROOT_PREFERENCES: &str = include_str!("../rootfs/preferences");
const GUEST_SCRIPT: &str = include_str!("../guest/build.sh");
const GO_MOD: &str = include_str!("../kubernetes/go.mod");
const GO_SUM: &str = include_str!("../kubernetes/go.sum");
const GO_MAIN: &str = include_str!("../kubernetes/main.go");
/// The guest's own files, which the script finds beside it.
const GUEST_FILES: &[(&str, &str)] = &[
    ("overlay/etc/acpi/PWRF/00000080", include_str!("../guest/overlay/etc/acpi/PWRF/00000080")),
    ("overlay/etc/inittab", include_str!("../guest/overlay/etc/inittab")),
    ("overlay/etc/rc", include_str!("../guest/overlay/etc/rc")),
    ("overlay/etc/rc.late", include_str!("../guest/overlay/etc/rc.late")),
    ("overlay/etc/rc.stop", include_str!("../guest/overlay/etc/rc.stop")),
    ("overlay/sbin/agent", include_str!("../guest/overlay/sbin/agent")),
    ("overlay/sbin/device-event", include_str!("../guest/overlay/sbin/device-event")),
    ("overlay/sbin/dhcp-event", include_str!("../guest/overlay/sbin/dhcp-event")),
    ("overlay/sbin/getty-if-there", include_str!("../guest/overlay/sbin/getty-if-there")),
    ("overlay/sbin/seed", include_str!("../guest/overlay/sbin/seed")),
    ("overlay/sbin/shutdown", include_str!("../guest/overlay/sbin/shutdown")),
];

const SCHEDULER_IMAGE: &str = "kube-scheduler.tar";

/// The components of a cluster that the one Kubernetes binary holds.
const COMPONENTS: &[&str] =
    &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet"];

/// Where the parts of a lab are.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The directory that is the lower layer of every host's root.
    pub root: PathBuf,
    /// The directory of Kubernetes' programs.
    pub kubernetes: PathBuf,
    /// The archive of an image of kube-scheduler.
    pub scheduler_image: PathBuf,
    /// The guest image, a qcow2 file.
    pub guest_image: PathBuf,
}

impl Artifacts {
    /// Builds what is not there yet.
    ///
    /// # Errors
    /// When a build fails; the error names its log.
    pub fn prepare() -> Result<Self> {
        std::thread::scope(|scope| {
            // The one waits for the network, the other for the processor.
            let debian = scope.spawn(|| Ok((root_file_system()?, guest_image()?)));
            let kubernetes = kubernetes()?;
            let scheduler_image = scheduler_image(&kubernetes)?;
            let (root, guest_image) = join(debian)?;
            Ok(Self { root, kubernetes, scheduler_image, guest_image })
        })
    }

    /// Where the parts are, whether or not they have been built.
    ///
    /// # Errors
    /// When there is no home directory.
    pub fn locate() -> Result<Self> {
        Ok(Self {
            root: path("root", &root_recipe())?,
            kubernetes: path("kubernetes", &kubernetes_recipe())?,
            scheduler_image: path("scheduler", &scheduler_recipe())?.join(SCHEDULER_IMAGE),
            guest_image: path("guest", &guest_recipe())?.join("tiny.qcow2"),
        })
    }
}

/// The result of a thread of ours.
pub(crate) fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The cache's directory: `$KUBEVMM_CACHE`, else `kubevmm` in `$XDG_CACHE_HOME` or `~/.cache`.
fn cache() -> Result<&'static Path> {
    static CACHE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let dir = CACHE.get_or_init(|| {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("KUBEVMM_CACHE")
            .or_else(|| absolute("XDG_CACHE_HOME").map(|dir| dir.join("kubevmm")))
            .or_else(|| absolute("HOME").map(|dir| dir.join(".cache/kubevmm")))
    });
    dir.as_deref().ok_or_else(|| Error::Option {
        option: "KUBEVMM_CACHE",
        reason: "there is no HOME: name a directory for what the lab builds".into(),
    })
}

/// The key of a recipe: a change of any part gives another one.
fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..8])
}

fn path(name: &str, recipe: &[&str]) -> Result<PathBuf> {
    Ok(cache()?.join(format!("{name}-{}", key(recipe))))
}

/// The directory of a recipe; `build` fills it when it is not there. Only one process builds, others wait for it. A
/// build that was broken off leaves nothing that a later one takes for whole.
fn cached(name: &str, recipe: &[&str], build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let done = path(name, recipe)?;
    if done.is_dir() {
        return Ok(done);
    }
    fs::create_dir_all(cache()?).file("create", cache()?)?;
    let lock_path = done.with_extension("lock");
    let lock = File::create(&lock_path).file("create", &lock_path)?;
    lock.lock().file("lock", &lock_path)?;
    if done.is_dir() {
        return Ok(done);
    }
    let log = done.with_extension("log");
    let new = done.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).file("remove", &new)?;
    }
    fs::create_dir(&new).file("create", &new)?;
    info!("building the {name}: the first time only; its log is {}", log.display());
    let started = Instant::now();
    build(&new, &log)?;
    fs::rename(&new, &done).file("rename", &new)?;
    info!("built the {name} in {} s", started.elapsed().as_secs());
    Ok(done)
}

/// Runs one step of a build with its output in the log.
fn step(command: &mut std::process::Command, log: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(log).file("open", log)?;
    let copy = file.try_clone().file("open", log)?;
    let status = command
        .stdout(Stdio::from(file))
        .stderr(Stdio::from(copy))
        .status()
        .map_err(|source| command::spawn_error(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: command.get_program().to_string_lossy().into_owned(),
        status,
        stderr: format!("look into {}\n{}", log.display(), tail(log)),
    })
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn root_recipe() -> [&'static str; 3] {
    [debian::SUITE, ROOT_PACKAGES, ROOT_PREFERENCES]
}

/// The hosts' root file system: Debian with libvirt and QEMU of backports.
fn root_file_system() -> Result<PathBuf> {
    cached("root", &root_recipe(), |new, log| {
        let sources = debian::Sources::of_machine()?;
        let preferences = new.with_extension("preferences");
        fs::write(&preferences, ROOT_PREFERENCES).file("write", &preferences)?;
        let packages: Vec<_> =
            ROOT_PACKAGES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let mut command = debian::program("mmdebstrap");
        command.args(["--mode=root", "--variant=essential", "--aptopt=APT::Install-Recommends \"false\""]);
        for path in ["doc", "info", "locale", "man"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
        }
        command
            .arg("--setup-hook=mkdir -p \"$1/etc/apt/preferences.d\"")
            .arg(format!("--setup-hook=cp '{}' \"$1/etc/apt/preferences.d/backports\"", preferences.display()))
            .arg(format!("--include={}", packages.join(",")))
            .arg(debian::SUITE)
            .arg(new)
            .args(sources.with_backports());
        step(&mut command, log)?;
        fs::remove_file(&preferences).file("remove", preferences)
    })
}

fn kubernetes_recipe() -> [&'static str; 3] {
    [GO_MOD, GO_SUM, GO_MAIN]
}

/// Stock Kubernetes and etcd, from their Go modules.
fn kubernetes() -> Result<PathBuf> {
    cached("kubernetes", &kubernetes_recipe(), |new, log| {
        for (name, text) in [("go.mod", GO_MOD), ("go.sum", GO_SUM), ("main.go", GO_MAIN)] {
            fs::write(new.join(name), text).file("write", new.join(name))?;
        }
        let version = kubernetes_version()?;
        let mut parts = version.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let flag = |name: &str, value: &str| format!("-X k8s.io/component-base/version.git{name}={value}");
        // The caller's environment: Go's caches, proxy and tool chain are its business.
        let mut command = std::process::Command::new("go");
        command
            .args(["build", "-trimpath", "-ldflags"])
            .arg(format!("-s -w {} {} {}", flag("Version", version), flag("Major", major), flag("Minor", minor)))
            .args(["-o", "kubernetes", "."])
            .env("CGO_ENABLED", "0")
            .current_dir(new);
        step(&mut command, log)?;
        for name in ["go.mod", "go.sum", "main.go"] {
            fs::remove_file(new.join(name)).file("remove", new.join(name))?;
        }
        for component in COMPONENTS {
            std::os::unix::fs::symlink("kubernetes", new.join(component)).file("create", new.join(component))?;
        }
        Ok(())
    })
}

fn scheduler_recipe() -> [&'static str; 4] {
    // Its name, which has the project's version, is in the archive.
    [GO_MOD, GO_SUM, GO_MAIN, env!("CARGO_PKG_VERSION")]
}

/// Kubernetes' scheduler as an image: other clusters have it in a registry.
fn scheduler_image(kubernetes: &Path) -> Result<PathBuf> {
    let dir = cached("scheduler", &scheduler_recipe(), |new, _| {
        container_image::write_scheduler(&kubernetes.join("kube-scheduler"), &new.join(SCHEDULER_IMAGE))
    })?;
    Ok(dir.join(SCHEDULER_IMAGE))
}

/// The version of Kubernetes that go.mod asks for, for example `v1.36.3`.
fn kubernetes_version() -> Result<&'static str> {
    GO_MOD.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")).map(str::trim).ok_or_else(|| {
        Error::Unexpected { what: "lab/kubernetes/go.mod".into(), reason: "no k8s.io/kubernetes".into() }
    })
}

fn guest_recipe() -> Vec<&'static str> {
    let files = GUEST_FILES.iter().map(|(_, text)| *text);
    [debian::SUITE, GUEST_SCRIPT].into_iter().chain(files).collect()
}

/// The guest image, from Debian packages.
fn guest_image() -> Result<PathBuf> {
    let dir = cached("guest", &guest_recipe(), |new, log| {
        let scripts = new.join("scripts");
        fs::create_dir(&scripts).file("create", &scripts)?;
        for (name, text) in GUEST_FILES.iter().chain([&("build.sh", GUEST_SCRIPT)]) {
            let path = scripts.join(name);
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).file("create", dir)?;
            }
            fs::write(&path, text).file("write", path)?;
        }
        let mut command = debian::program("bash");
        command.arg(scripts.join("build.sh")).arg(new.join("tiny.qcow2")).arg(debian::SUITE);
        command.args(debian::Sources::of_machine()?.stable());
        step(&mut command, log)?;
        fs::remove_dir_all(&scripts).file("remove", scripts)
    })?;
    Ok(dir.join("tiny.qcow2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_stable_and_depends_on_every_part_and_on_where_it_ends() {
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab", "c"]), key(&["ab", "d"]));
        assert_eq!(key(&["ab"]).len(), 16);
    }

    #[test]
    fn the_version_is_found_in_go_mod() {
        let version = kubernetes_version().unwrap();
        assert!(version.starts_with("v1.") && version.split('.').count() == 3, "{version}");
    }
}
