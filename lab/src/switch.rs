//! The switch: a bridge in a network namespace of its own, to which hosts and machine are plugged, and the file server
//! that listens there. The namespace lives as long as the server's process, and takes all cables with it.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Error, HostName, Options, ProcessId, Result,
    address::MAX_HOSTS,
    cgroup::Cgroups,
    command::{self, program, wait_until},
    error::FileContext as _,
    files, host, process,
};

/// The name of the switch's cgroup and directory.
const NAME: &str = "switch";
/// The port of the file server.
pub(crate) const FILES_PORT: u16 = 8080;

fn dir(options: &Options) -> PathBuf {
    options.dir.join(NAME)
}

/// The directory whose files the server serves.
pub(crate) fn served_dir(options: &Options) -> PathBuf {
    dir(options).join("www")
}

fn interface(options: &Options) -> String {
    format!("{}-up", options.tag)
}

/// The switch's process.
pub(crate) fn find(options: &Options) -> Option<ProcessId> {
    ProcessId::read(&dir(options).join("pid")).filter(|process| process.is_alive())
}

fn require(options: &Options) -> Result<ProcessId> {
    find(options).ok_or_else(|| Error::NoLab(options.dir.clone()))
}

/// Becomes the switch's process. Called by the program `lab`, in a network namespace of its own.
///
/// # Errors
/// When the port cannot be opened. It does not return otherwise.
pub fn serve(lab_dir: &Path) -> Result<()> {
    let options = Options::load(lab_dir)?;
    let port = ("0.0.0.0", FILES_PORT);
    let listener = TcpListener::bind(port)
        .map_err(|source| Error::System { action: format!("listen on port {FILES_PORT}"), source })?;
    let own = ProcessId::now(Path::new("/proc"), std::process::id().cast_signed()).ok_or_else(|| Error::System {
        action: "find the own process".into(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    own.write(&dir(&options).join("pid"), &process::boot_id())?;
    files::serve(&listener, &served_dir(&options))
}

/// Starts the switch and plugs the machine in, unless it runs.
pub(crate) fn start(options: &Options) -> Result<()> {
    if find(options).is_some() {
        return Ok(());
    }
    refuse_used_networks(options)?;
    let www = served_dir(options);
    fs::create_dir_all(&www).file("create", &www)?;
    let cgroups = Cgroups::of_machine()?;
    cgroups.make(&options.tag, NAME)?;
    let log = dir(options).join("switch.log");
    host::detach(host::join_groups(&cgroups, &options.tag, NAME), &["--net"], &["serve"], options, &log)?;
    wait_until("the switch runs", &log, Duration::from_secs(10), || find(options).is_some())?;
    let switch = require(options)?;
    let cable = interface(options);
    batch(
        in_network(switch),
        &[
            "link set lo up".into(),
            "link add br0 type bridge stp_state 0 forward_delay 0".into(),
            "link set br0 up".into(),
            format!("addr add {}/24 dev br0", options.switch_address()),
        ],
    )?;
    batch(program("ip"), &[format!("link add {cable} type veth peer name uplink netns {}", switch.pid)])?;
    batch(in_network(switch), &["link set uplink master br0 up".into()])?;
    batch(
        program("ip"),
        &[format!("addr add {}/24 dev {cable}", options.machine_address()), format!("link set {cable} up")],
    )?;
    batch(program("ip"), &pod_routes(options, None, &cable))?;
    batch(in_network(switch), &pod_routes(options, None, "br0"))
}

/// Waits until the machine's end of the cable is gone; the switch's process has ended.
pub(crate) fn wait_gone(options: &Options) -> Result<()> {
    let path = Path::new("/sys/class/net").join(interface(options));
    wait_until(&format!("the interface {} is gone", interface(options)), &path, Duration::from_secs(10), || {
        !path.exists()
    })
}

/// Plugs a host in that has just booted.
pub(crate) fn plug(options: &Options, name: HostName, init: ProcessId) -> Result<()> {
    // The old end, if its network namespace is still being torn down.
    unplug(options, name)?;
    let mac = options.mac(name);
    batch(
        in_network(require(options)?),
        &[
            format!("link add {name} type veth peer name eth0 address {mac} netns {}", init.pid),
            format!("link set {name} master br0 up"),
        ],
    )?;
    let mut inside = vec![
        "link set lo up".to_owned(),
        format!("addr add {}/24 dev eth0", options.address(name)),
        "link set eth0 up".to_owned(),
    ];
    inside.extend(pod_routes(options, Some(name), "eth0"));
    if !name.is_control_plane() {
        // For the first look-up only: the address is translated to the API server's.
        inside.push(format!(
            "route add {}/24 via {} dev eth0",
            options.services,
            options.address(HostName::ControlPlane)
        ));
    }
    batch(in_network(init), &inside)
}

/// Takes the cable of a host away, if there is one.
pub(crate) fn unplug(options: &Options, name: HostName) -> Result<()> {
    let switch = require(options)?;
    let has_cable = command::output(in_network(switch).args(["ip", "link", "show", "dev", &name.to_string()])).is_ok();
    // It may go by itself between the two.
    if has_cable && batch(in_network(switch), &[format!("link del {name}")]).is_err() {
        return wait_until(
            &format!("the cable of {name} is gone"),
            Path::new("/sys/class/net"),
            Duration::from_secs(5),
            || command::output(in_network(switch).args(["ip", "link", "show", "dev", &name.to_string()])).is_err(),
        );
    }
    Ok(())
}

/// Takes the link of a host down, or up again.
pub(crate) fn set_link(options: &Options, name: HostName, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    batch(in_network(require(options)?), &[format!("link set {name} {state}")])
}

/// Routes to the pods of all hosts but one.
fn pod_routes(options: &Options, except: Option<HostName>, device: &str) -> Vec<String> {
    (1..=MAX_HOSTS)
        .map(HostName::Node)
        .filter(|host| Some(*host) != except)
        .map(|host| format!("route add {} via {} dev {device}", options.pod_network(host), options.address(host)))
        .collect()
}

fn in_network(process: ProcessId) -> Command {
    let mut command = program("nsenter");
    command.args(["-t", &process.pid.to_string(), "-n", "--"]);
    command
}

/// Runs lines of `ip`; by `program("ip")` on the machine, by [`in_network`] elsewhere.
fn batch(mut command: Command, lines: &[String]) -> Result<()> {
    if command.get_program() != "ip" {
        command.arg("ip");
    }
    command.args(["-batch", "-"]);
    command::feed(&mut command, (lines.join("\n") + "\n").as_bytes()).map(drop)
}

/// The machine may have another network of the same address: the lab would cut it off.
fn refuse_used_networks(options: &Options) -> Result<()> {
    let routes = command::text(program("ip").args(["-4", "route", "show", "table", "all"]))?;
    match used_network(options, &routes) {
        None => Ok(()),
        Some((option, route)) => Err(Error::Option {
            option,
            reason: format!("the machine has a route into this network already ({route}); choose another one"),
        }),
    }
}

fn used_network<'a>(options: &Options, routes: &'a str) -> Option<(&'static str, &'a str)> {
    let [a, b, c, _] = options.network.octets();
    let [pods_a, pods_b, ..] = options.pods.octets();
    let taken = [("--network", format!("{a}.{b}.{c}.")), ("--pods", format!("{pods_a}.{pods_b}."))];
    routes.lines().find_map(|line| {
        let destination = line.split_ascii_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        taken.iter().find(|(_, prefix)| destination.starts_with(prefix)).map(|(option, _)| (*option, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_the_machine_has_is_refused() {
        let options = Options::default();
        let routes = "default via 192.0.2.1 dev eth0\nlocal 10.77.0.9 dev eth1 table local\n";
        assert_eq!(used_network(&options, routes).map(|found| found.0), Some("--network"));
        assert_eq!(used_network(&options, "10.78.0.0/16 dev docker0").map(|found| found.0), Some("--pods"));
        assert_eq!(used_network(&options, "10.7.0.0/16 dev a\n192.168.10.77 dev b"), None);
    }

    #[test]
    fn a_host_has_routes_to_the_pods_of_all_others() {
        let routes = pod_routes(&Options::default(), Some(HostName::Node(2)), "eth0");
        assert_eq!(routes.len(), usize::from(MAX_HOSTS) - 1);
        assert_eq!(routes[0], "route add 10.78.1.0/24 via 10.77.0.1 dev eth0");
    }
}
