//! A libvirtd that is not the lab's, with a network and a guest, as a machine may have one.

use std::{
    fs,
    io::Write as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kubevmm_lab::artifacts::Artifacts;

use crate::{Outcome, text};

/// The hosts' root file system is what there is with a libvirtd in it; this one has nothing of a lab beside that. It
/// has its own network, so that its subnet is in nobody's way, and an init, so that what daemons leave is reaped.
const START: &str = "
    mount -t tmpfs foreign /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay foreign -o lowerdir=\"$1\",upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
    mount -t proc foreign /mnt/root/proc
    mount -t sysfs foreign /mnt/root/sys
    mount --rbind /dev /mnt/root/dev
    mount -t tmpfs foreign /mnt/root/run
    ip link set lo up
    exec chroot /mnt/root tini -- sh -c 'virtlogd --daemon; exec libvirtd'";

const GUEST: &str = "<domain type='qemu'><name>foreign</name><memory unit='MiB'>32</memory>\
                     <os><type arch='x86_64'>hvm</type></os></domain>";

/// What can be seen of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Each process, with the time of its start.
    processes: Vec<(u32, String)>,
    guests: String,
    networks: String,
    links: String,
}

pub(crate) struct Foreign(Child);

impl Foreign {
    pub(crate) fn start(artifacts: &Artifacts) -> Outcome<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-euc", START, "foreign"]);
        // It says a lot about devices that it does not have.
        let foreign = Self(command.arg(&artifacts.root).stderr(Stdio::null()).stdout(Stdio::null()).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(60);
        while foreign.virsh(&["uri"]).is_err() {
            assert!(Instant::now() < deadline, "the foreign libvirtd does not start");
            thread::sleep(Duration::from_millis(100));
        }
        foreign.virsh(&["net-start", "default"])?;
        let mut create =
            foreign.inside(&["virsh", "create", "--paused", "/dev/stdin"])?.stdin(Stdio::piped()).spawn()?;
        create.stdin.take().ok_or("no stdin")?.write_all(GUEST.as_bytes())?;
        assert!(create.wait()?.success(), "the foreign guest does not start");
        Ok(foreign)
    }

    pub(crate) fn look(&self) -> Outcome<Look> {
        let mut pids = vec![self.0.id()];
        let mut processes = Vec::new();
        while let Some(pid) = pids.pop() {
            pids.extend(children(pid)?);
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            processes.push((pid, after_name.split_ascii_whitespace().nth(19).unwrap_or_default().to_owned()));
        }
        processes.sort();
        Ok(Look {
            processes,
            // Only the list says whether it runs.
            guests: self.virsh(&["list", "--all"])? + &self.virsh(&["dumpxml", "foreign"])?,
            networks: self.virsh(&["net-list", "--all"])?,
            links: text(&mut self.inside(&["ip", "-brief", "address"])?)?,
        })
    }

    pub(crate) fn virsh(&self, arguments: &[&str]) -> Outcome<String> {
        text(self.inside(&["virsh"])?.args(arguments))
    }

    /// A program beside the libvirtd.
    fn inside(&self, words: &[&str]) -> Outcome<Command> {
        let init = children(self.0.id())?.into_iter().next().ok_or("the foreign libvirtd has ended")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &init.to_string(), "--mount", "--net", "--pid", "--root", "--wd"]).args(words);
        Ok(command)
    }
}

/// A process without threads of its own that have children.
fn children(pid: u32) -> Outcome<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
