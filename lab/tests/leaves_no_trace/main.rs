//! A lab of its own tag comes up, survives what labs are for, and leaves the machine as it was: also after an `up`
//! that was killed half-way. Needs root, as the lab does.

mod foreign;
mod machine;

use std::{
    error::Error,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use foreign::Foreign;
use kubevmm_lab::{Daemon, GUEST_IMAGE, HostName, Lab, Options, artifacts::Artifacts};
use machine::{Machine, Settings};

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

fn text(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
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

fn assert_no_files() {
    let options = options();
    let lock = options.dir.with_extension("lock");
    for path in [&options.dir, &options.disks(), &lock, Path::new("/sys/class/net/labtest-up")] {
        assert!(!path.exists(), "{} is left", path.display());
    }
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
    let deadline = Instant::now() + Duration::from_secs(60);
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
    // What a machine builds the first time takes minutes: not in a time that is limited below.
    let artifacts = Artifacts::prepare()?;
    let foreign = Foreign::start(&artifacts)?;
    let (foreign_before, before) = (foreign.look()?, Machine::look(&artifacts)?);

    crash_while_going_up()?;
    Lab::clean(&options().dir)?;
    assert_no_files();
    assert_eq!(Machine::look(&artifacts)?, before);

    crash_while_going_up()?;
    let lab = Lab::up(&options())?;
    survives_what_labs_are_for(&lab)?;
    assert_eq!(Settings::look(&artifacts)?, before.settings);
    lab.down()?;

    assert_no_files();
    assert_eq!(Machine::look(&artifacts)?, before);
    assert_eq!(foreign.look()?, foreign_before);
    Ok(())
}

/// A look that saw nothing would find that nothing has changed.
#[test]
fn a_look_at_a_foreign_libvirtd_sees_what_happens_to_it() -> Outcome {
    let artifacts = Artifacts::prepare()?;
    let foreign = Foreign::start(&artifacts)?;
    let before = foreign.look()?;
    assert_eq!(foreign.look()?, before);
    foreign.virsh(&["resume", "foreign"])?;
    let resumed = foreign.look()?;
    assert_ne!(resumed, before);
    foreign.virsh(&["net-destroy", "default"])?;
    assert_ne!(foreign.look()?, resumed);
    Ok(())
}
