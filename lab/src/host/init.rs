//! The first process of a host: makes the host's view of the machine, and becomes its init.
//!
//! It starts in namespaces of its own, where the mounts of the machine are still to be seen, and ends as `tini`, which
//! reaps what other processes leave behind, in the host's root file system with nothing else mounted.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
    unistd,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, HostName, Options, ProcessId, Result, cgroup::Cgroups, command::program, error::FileContext as _, process,
};

/// What the first process needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) options: Options,
    pub(crate) host: HostName,
    /// The lower layer of the host's root.
    pub(crate) artifacts_root: PathBuf,
    /// The directory of Kubernetes' programs.
    pub(crate) kubernetes: PathBuf,
}

impl Spec {
    fn path(dir: &Path, host: HostName) -> PathBuf {
        dir.join(host.to_string()).join("init.json")
    }

    pub(crate) fn save(&self) -> Result<()> {
        let path = Self::path(&self.options.dir, self.host);
        let text = serde_json::to_vec(self).map_err(|error| unexpected(&path, &error))?;
        fs::write(&path, text).file("write", path)
    }

    fn load(dir: &Path, host: HostName) -> Result<Self> {
        let path = Self::path(dir, host);
        let text = fs::read(&path).file("read", &path)?;
        serde_json::from_slice(&text).map_err(|error| unexpected(&path, &error))
    }
}

fn unexpected(path: &Path, error: &serde_json::Error) -> Error {
    Error::Unexpected { what: path.display().to_string(), reason: error.to_string() }
}

/// Kernel settings that are the whole machine's and that the kubelet would change: it finds what it wants in files
/// over them. The rest of `/proc/sys` but `net` is read-only.
const KERNEL_SETTINGS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Devices that every host has: path, major, minor, mode.
const DEVICES: &[(&str, u64, u64, u32)] = &[
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("kmsg", 1, 11, 0o600),
    ("tty", 5, 0, 0o666),
    ("net/tun", 10, 200, 0o666),
    ("fuse", 10, 229, 0o666),
    ("vhost-net", 10, 238, 0o600),
];

/// Becomes the init of a host. Called by the program `lab`, as process 1 of a new pid namespace.
///
/// # Errors
/// When a mount fails. It does not return otherwise.
pub fn run(dir: &Path, host: HostName) -> Result<()> {
    let spec = Spec::load(dir, host)?;
    // /proc is still the machine's, so this is what the machine knows this process by.
    let own_pid = fs::read_link("/proc/self").file("read", "/proc/self")?;
    let own = own_pid
        .to_str()
        .and_then(|pid| ProcessId::now(Path::new("/proc"), pid.parse().ok()?))
        .ok_or_else(|| Error::Unexpected { what: "/proc/self".into(), reason: "it names no process".into() })?;
    let boot_id = process::boot_id();
    let cgroups = Cgroups::of_machine()?;
    umask(Mode::from_bits_truncate(0o022));
    let root = mount_root(&spec)?;
    mount_disk(&spec, &root)?;
    make_dev(&root)?;
    mount_kernel(&root, &cgroups)?;
    unistd::sethostname(host.to_string()).file("set the host name in", "/proc/sys/kernel/hostname")?;
    enter_root(&root)?;
    own.write(Path::new("/run/lab/init"), &boot_id)?;
    let error = program("tini").args(["--", "sleep", "infinity"]).exec();
    Err(error).file("execute", "/usr/bin/tini")
}

/// Mounts the host's root: the lab's root file system below, the host's own changes above.
fn mount_root(spec: &Spec) -> Result<PathBuf> {
    let (disk, root) = (spec.options.host_disk(spec.host), spec.options.host_dir(spec.host).join("root"));
    remount("/", MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    fs::create_dir_all(&root).file("create", &root)?;
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        spec.artifacts_root.display(),
        disk.join("upper").display(),
        disk.join("work").display()
    );
    mount(Some("root"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).file("mount", &root)?;
    Ok(root)
}

/// Mounts what is outside of the overlay: `/run`, which the machine sees; what needs a real file system; what hosts
/// share.
fn mount_disk(spec: &Spec, root: &Path) -> Result<()> {
    let disk = spec.options.host_disk(spec.host);
    bind(&spec.options.host_dir(spec.host).join("run"), &root.join("run"))?;
    bind(&spec.kubernetes, &root.join("usr/local/bin"))?;
    read_only(&root.join("usr/local/bin"))?;
    if spec.host.is_control_plane() {
        bind(&spec.options.dir.join("pki"), &root.join("etc/kubernetes"))?;
        return bind(&disk.join("etcd"), &root.join("var/lib/etcd"));
    }
    bind(&disk.join("containerd"), &root.join("var/lib/containerd"))?;
    bind(&disk.join("kubelet"), &root.join("var/lib/kubelet"))?;
    bind(&spec.options.disks().join("shared"), &root.join("srv/shared"))
}

/// A `/dev` of the host's own: what is done to a device file there does not touch the machine's.
fn make_dev(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    mount_new("tmpfs", &dev, "mode=755")?;
    for dir in ["net", "pts", "shm"] {
        fs::create_dir(dev.join(dir)).file("create", dev.join(dir))?;
    }
    mount_new("devpts", &dev.join("pts"), "newinstance,ptmxmode=0666,mode=620,gid=5")?;
    mount_new("tmpfs", &dev.join("shm"), "mode=1777")?;
    for (link, target) in
        [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, dev.join(link)).file("create", dev.join(link))?;
    }
    for &(name, major, minor, mode) in DEVICES {
        make_device(&dev.join(name), makedev(major, minor), mode)?;
    }
    // For the group kvm, as udev does it, whatever the machine has: where QEMU's user may not open it, libvirt finds KVM
    // when it asks QEMU, finds it gone when it looks at the file, and asks again, for 18 s at each definition.
    if let Ok(kvm) = fs::metadata("/dev/kvm") {
        let path = dev.join("kvm");
        make_device(&path, kvm.rdev(), 0o660)?;
        chown(&path, Some(0), Some(group_id(root, "kvm").unwrap_or(0))).file("change the group of", path)?;
    }
    Ok(())
}

fn make_device(path: &Path, device: u64, mode: u32) -> Result<()> {
    mknod(path, SFlag::S_IFCHR, Mode::empty(), device).file("create", path)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, permissions).file("set the mode of", path)
}

fn group_id(root: &Path, name: &str) -> Option<u32> {
    let text = fs::read_to_string(root.join("etc/group")).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Mounts `/proc`, `/sys` and the cgroups of the host's namespaces, so that the machine's kernel settings cannot be
/// changed from inside.
fn mount_kernel(root: &Path, cgroups: &Cgroups) -> Result<()> {
    let (proc, sys) = (root.join("proc"), root.join("sys"));
    mount_new("proc", &proc, "")?;
    let settings = proc.join("sys");
    bind(&settings, &settings)?;
    bind(&settings.join("net"), &settings.join("net"))?;
    let over = root.join("run/lab/kernel");
    let new_boot_id =
        fs::read_to_string("/proc/sys/kernel/random/uuid").file("read", "/proc/sys/kernel/random/uuid")?;
    let own = KERNEL_SETTINGS.iter().copied().chain([("kernel/random/boot_id", new_boot_id.trim())]);
    for (name, value) in own {
        let file = over.join(name.replace('/', "."));
        fs::create_dir_all(&over).file("create", &over)?;
        fs::write(&file, format!("{value}\n")).file("write", &file)?;
        let target = settings.join(name);
        if target.exists() {
            bind(&file, &target)?;
        }
    }
    read_only(&settings)?;
    // The sysfs of this network namespace: libvirt sets up bridges in it.
    mount_new("sysfs", &sys, "")?;
    cgroups.mount(&sys.join("fs/cgroup"))
}

/// Makes `root` the root, and lets go of the machine's mounts.
fn enter_root(root: &Path) -> Result<()> {
    std::env::set_current_dir(root).file("enter", root)?;
    unistd::pivot_root(".", ".").file("make the root", root)?;
    umount2(".", MntFlags::MNT_DETACH).file("unmount the old root under", root)?;
    std::env::set_current_dir("/").file("enter", "/")?;
    // Or mounts of a host do not reach its containers.
    remount("/", MsFlags::MS_SHARED | MsFlags::MS_REC)
}

fn mount_new(kind: &str, target: &Path, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options)).file("mount", target)
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    if source.is_dir() {
        fs::create_dir_all(target).file("create", target)?;
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).file("mount", target)
}

fn read_only(target: &Path) -> Result<()> {
    remount(target, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)
}

fn remount(target: impl AsRef<Path>, flags: MsFlags) -> Result<()> {
    let target = target.as_ref();
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).file("change the mount", target)
}
