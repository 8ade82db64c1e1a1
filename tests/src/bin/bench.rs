//! `kubevmm-bench`: what is measured on a lab, each as a table.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use kubevmm_lab::Lab;
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
}

fn main() -> Result<()> {
    match Options::parse().bench {
        Bench::Start { lab, image, at_most } => start(&lab, &image, at_most),
        Bench::Executors { domains, idle, seconds } => {
            let place = Place::up()?;
            let measured = executors(&place, domains, idle, seconds);
            place.down()?;
            measured
        }
    }
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
    for (write, number) in writes {
        println!("{write:58} {number:7}");
    }
    Ok(())
}
