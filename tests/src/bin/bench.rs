//! `kubevmm-bench`: what is measured on a lab, each as a table.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use kubevmm_lab::Lab;
use kubevmm_tests::bench::scheduling::Scale;
use kubevmm_tests::bench::{self, Place};

/// Measures, and prints a table.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// On a lab that is up: five times from `kubectl apply` of a VirtualMachine to libvirt's "started", the image being on
    /// the host already, beside virsh's own define and start.
    Start {
        /// Directory of the lab's state
        #[arg(long, env = "LAB_DIR", default_value = "/run/kubevmm-lab")]
        lab: PathBuf,
        /// A ClusterVirtualMachineImage
        #[arg(long, default_value = "tiny")]
        image: String,
        /// Fail when the median is above this many seconds
        #[arg(long, value_name = "SECONDS")]
        at_most: Option<f32>,
    },
    /// On a lab of its own: the start of an executor on a host with many domains, and what executors write that have
    /// nothing to do.
    Executors {
        /// Domains of the one host
        #[arg(long, default_value_t = 300)]
        domains: usize,
        /// Executors that have nothing to do, on libvirt's test driver
        #[arg(long, default_value_t = 100)]
        idle: usize,
        /// Seconds for which the writes of the idle ones are counted, by the API server's audit log
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// On a lab of its own: placement pods that a kube-scheduler binds in a second, with the extender and without it, on
    /// hosts that only the API server knows.
    Scheduling {
        /// Hosts
        #[arg(long, default_value_t = 5000)]
        hosts: usize,
        /// VMs that are placed already
        #[arg(long, default_value_t = 20000)]
        placed: usize,
        /// VMs that are to be placed
        #[arg(long, default_value_t = 1000)]
        waiting: usize,
        /// How often, with and without the extender by turns
        #[arg(long, default_value_t = 2)]
        rounds: usize,
    },
}

/// Seconds that an executor may take to tell of its host's domains.
const SLOWEST_START: f32 = 2.0;
/// All that an idle executor writes, in the words of the audit log.
const ONLY_WRITE: &str = "update leases";
/// What the extender must leave of the pods that are placed in a second.
const LEAST_RATIO: f64 = 0.7;

fn main() -> Result<()> {
    match Options::parse().bench {
        Bench::Start { lab, image, at_most } => start(&lab, &image, at_most),
        Bench::Executors { domains, idle, seconds } => in_a_lab(|place| executors(place, domains, idle, seconds)),
        Bench::Scheduling { hosts, placed, waiting, rounds } => {
            in_a_lab(|place| scheduling(place, Scale { hosts, placed, waiting, rounds }))
        }
    }
}

fn in_a_lab(bench: impl FnOnce(&Place) -> Result<()>) -> Result<()> {
    let place = Place::up()?;
    let measured = bench(&place);
    place.down()?;
    measured
}

fn start(lab: &std::path::Path, image: &str, at_most: Option<f32>) -> Result<()> {
    let lab = Box::leak(Box::new(Lab::attach(lab)?));
    let report = bench::start::measure(lab, image)?;
    print!("{report}");
    if let Some(limit) = at_most {
        let median = report.median().as_secs_f32();
        ensure!(median <= limit, "the median of {median:.2} s is above {limit} s");
    }
    Ok(())
}

fn executors(place: &Place, domains: usize, idle: usize, seconds: u64) -> Result<()> {
    let report = bench::executor::measure(place, domains)?;
    let (executor, virsh) = (report.executor.as_secs_f32(), report.virsh.as_secs_f32());
    println!("{:58} seconds", format!("a host with {domains} domains"));
    println!("{:58} {executor:7.2}", "start of an executor -> all domains in the Hypervisor");
    println!("{:58} {virsh:7.2}", "one virsh: list, and dumpxml of each");
    println!("{:58} {:7.2}\n", "ratio", executor / virsh);
    let writes = bench::idle::measure(place, idle, seconds)?;
    println!("{:58}  number", format!("writes of {idle} idle executors in {seconds} s"));
    let mut others = Vec::new();
    for (write, number) in writes {
        println!("{write:58} {number:7}");
        others.extend((write != ONLY_WRITE).then_some(write));
    }
    ensure!(others.is_empty(), "an idle executor renews its Lease, and writes nothing else: {}", others.join(", "));
    ensure!(executor <= SLOWEST_START, "the start took {executor:.2} s, more than {SLOWEST_START} s");
    Ok(())
}

fn scheduling(place: &Place, scale: Scale) -> Result<()> {
    let report = bench::scheduling::measure(place, scale)?;
    let Scale { hosts, placed, waiting, .. } = scale;
    println!("{hosts} hosts, {placed} VMs placed, {waiting} waiting");
    let row = |what: &str, rates: &[f64]| {
        let each: String = rates.iter().map(|rate| format!("{rate:8.0}")).collect();
        println!("{what:44}{each}  mean {:6.0}", mean(rates));
    };
    row("placement pods a second, without extender", &report.without);
    row("placement pods a second, with extender", &report.with);
    let ratio = mean(&report.with) / mean(&report.without);
    println!("{:44}{ratio:8.2}", "ratio");
    println!("{:44}{:8.0}", "most memory of the extender, MiB", report.memory);
    ensure!(ratio >= LEAST_RATIO, "the ratio is below {LEAST_RATIO}");
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
