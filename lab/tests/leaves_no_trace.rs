//! A lab of its own tag comes up, survives what labs are for, and leaves the machine as it was: also after an `up`
//! that was killed half-way. Needs root, as the lab does.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use kubevmm_lab::{Daemon, GUEST_IMAGE, HostName, Lab, Options};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const H1: HostName = HostName::Node(1);

fn options() -> Options {
    Options {
        nodes: 1,
        dir: PathBuf::from("/run/kubevmm-labtest"),
        tag: "labtest".to_owned(),
        network: Ipv4Addr::new(10, 217, 31, 0),
        pods: Ipv4Addr::new(10, 218, 0, 0),
        ..Options::default()
    }
}

/// What a lab could spoil on the machine, and must not.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    mounts: Vec<String>,
    settings: BTreeMap<PathBuf, String>,
    kvm: Option<(u32, u32)>,
    rules: String,
}

impl Machine {
    fn look() -> Outcome<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let mut settings = BTreeMap::new();
        for dir in ["kernel", "vm", "net/ipv4/conf/all", "net/ipv4/conf/default", "net/ipv6/conf/all"] {
            for entry in fs::read_dir(Path::new("/proc/sys").join(dir))? {
                let path = entry?.path();
                let changes_by_itself = path.ends_with("kernel/ns_last_pid") || path.ends_with("vm/stat_refresh");
                if path.is_file() && !changes_by_itself {
                    // Some cannot be read by anybody.
                    settings.insert(path.clone(), fs::read_to_string(&path).unwrap_or_default());
                }
            }
        }
        let forwarding = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
        settings.insert(forwarding.clone(), fs::read_to_string(forwarding)?);
        Ok(Self {
            mounts: fs::read_to_string("/proc/self/mountinfo")?.lines().map(str::to_owned).collect(),
            settings,
            kvm: fs::metadata("/dev/kvm").ok().map(|kvm| (kvm.mode(), kvm.gid())),
            rules: text(Command::new("ip").arg("rule"))?,
        })
    }
}

fn text(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A process that is not the lab's, in a network namespace that is not the lab's.
struct Foreign(Child);

impl Foreign {
    fn start() -> Outcome<Self> {
        Ok(Self(Command::new("unshare").args(["--net", "sleep", "600"]).spawn()?))
    }

    fn is_untouched(&mut self) -> Outcome<bool> {
        let namespace = fs::read_link(format!("/proc/{}/ns/net", self.0.id()))?;
        Ok(self.0.try_wait()?.is_none() && namespace != fs::read_link("/proc/self/ns/net")?)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes the lab away however the test ends.
struct CleanUp;

impl Drop for CleanUp {
    fn drop(&mut self) {
        if let Err(error) = Lab::clean(&options().dir) {
            eprintln!("clean up: {error}");
        }
    }
}

fn assert_no_trace() -> Outcome {
    let options = options();
    let lock = options.dir.with_extension("lock");
    for path in [&options.dir, &options.disks(), &lock, Path::new("/sys/class/net/labtest-up")] {
        assert!(!path.exists(), "{} is left", path.display());
    }
    for entry in fs::read_dir("/sys/fs/cgroup")? {
        let path = entry?.path();
        assert!(!path.join("labtest").exists() && !path.ends_with("labtest"), "a cgroup is left in {}", path.display());
    }
    Ok(())
}

/// An `up` that is killed as soon as the host has booted.
fn crash_while_going_up() -> Outcome {
    let options = options();
    let mut up = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up", "1", "--tag", &options.tag, "--dir"])
        .arg(&options.dir)
        .arg("--network")
        .arg(options.network.to_string())
        .arg("--pods")
        .arg(options.pods.to_string())
        .spawn()?;
    let init = options.dir.join("h1/run/lab/init");
    let deadline = Instant::now() + Duration::from_secs(600);
    while !init.exists() {
        assert!(up.try_wait()?.is_none() && Instant::now() < deadline, "`lab up` did not come as far as booting h1");
        thread::sleep(Duration::from_millis(5));
    }
    up.kill()?;
    up.wait()?;
    assert!(Lab::attach(&options.dir).is_err(), "half a lab is none");
    Ok(())
}

fn survives_what_labs_are_for(lab: &Lab) -> Outcome {
    let node = || lab.kubectl(["get", "node", "h1", "-o", "jsonpath={.status.nodeInfo.bootID}"]);
    assert_eq!(lab.virsh(H1, ["net-list", "--name"])?.trim(), "default");
    assert_eq!(lab.exec(H1, ["hostname"])?.trim(), "h1");

    lab.restart_daemon(H1, Daemon::Libvirtd)?;
    lab.restart_daemon(H1, Daemon::Kubelet)?;
    assert!(lab.restart_daemon(H1, Daemon::Etcd).is_err(), "a node has no etcd");

    let url = lab.file_url(&format!("{GUEST_IMAGE}?test=trace"));
    let fetch = |url: &str| lab.exec(H1, ["busybox", "wget", "-q", "-O", "-", url]);
    let size = lab.exec(H1, ["sh", "-c", &format!("busybox wget -q -O - '{url}' | wc -c")])?;
    assert_eq!(size.trim().parse::<u64>()?, fs::metadata(lab.guest_image())?.len());
    assert_eq!(fetch(&lab.file_url(&format!("count/{GUEST_IMAGE}?test=trace")))?, "1\n");

    lab.set_link(H1, false)?;
    assert!(lab.exec(H1, ["busybox", "wget", "-q", "-T", "1", "-O", "-", &url]).is_err(), "the cable is cut");
    lab.set_link(H1, true)?;
    fetch(&url.replace(GUEST_IMAGE, "html/x"))?;

    let boot = node()?;
    lab.exec(H1, ["touch", "/root/kept", "/run/lost"])?;
    lab.kill_host(H1)?;
    let down = lab.exec(H1, ["true"]).expect_err("h1 is down");
    assert!(down.to_string().contains("lab start h1"), "{down}");
    lab.start_host(H1)?;
    assert_ne!(node()?, boot);
    lab.exec(H1, ["sh", "-c", "test -e /root/kept && test ! -e /run/lost"])?;

    lab.etcd_save("before")?;
    lab.kubectl(["create", "configmap", "later"])?;
    lab.etcd_restore("before")?;
    let gone = lab.kubectl(["get", "configmap", "later"]).expect_err("the backup is older");
    assert!(gone.to_string().contains("not found"), "{gone}");
    Ok(())
}

#[test]
fn a_lab_leaves_no_trace() -> Outcome {
    // What a test run before this one has left is none of this one's.
    Lab::clean(&options().dir)?;
    let _clean_up = CleanUp;
    let mut foreign = Foreign::start()?;
    thread::sleep(Duration::from_millis(100));
    let before = Machine::look()?;

    crash_while_going_up()?;
    Lab::clean(&options().dir)?;
    assert_no_trace()?;

    crash_while_going_up()?;
    let lab = Lab::up(&options())?;
    survives_what_labs_are_for(&lab)?;
    assert_eq!(Machine::look()?, before);
    lab.down()?;

    assert_no_trace()?;
    assert_eq!(Machine::look()?, before);
    assert!(foreign.is_untouched()?);
    Ok(())
}
