//! kill -9 of executor and controller at random moments of a VM's creation and deletion: the end is the same as
//! without. `KUBEVMM_SEEDS` says how many.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_tests::inventory::Inventory;
use kubevmm_tests::vm::shape;
use kubevmm_tests::{Json, Space, api, wait_for, within};

kubevmm_tests::stories! { alone: true; random_kills_change_nothing }

const SEEDS: u64 = 5;
/// A creation or deletion is over in less.
const SPAN: Duration = Duration::from_millis(3000);

/// Numbers that look random, and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        self.0 = hasher.finish();
        self.0 % sides
    }
}

fn random_kills_change_nothing(space: &Space) -> Result<()> {
    let hosts = space.cluster.libvirt_hosts();
    let calm = one_life(space, "calm", None)?;
    let seeds = std::env::var("KUBEVMM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    for seed in 1..=seeds {
        println!("seed {seed}");
        let before = Inventory::take(&hosts)?;
        let shaken =
            one_life(space, &format!("seed-{seed}"), Some(Dice(seed))).with_context(|| format!("seed {seed}"))?;
        ensure!(shaken == calm, "seed {seed}: the end is another one.\nwithout faults: {calm}\nwith: {shaken}");
        // dnsmasq and the pods' processes end a moment after their objects.
        wait_for("nothing more lies on the hosts than before", within(30), || {
            Inventory::take(&hosts)?.is_no_more_than(&before).map(Some)
        })
        .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

/// A VM with an image and a network of its own comes and goes; what its objects look like in between.
fn one_life(space: &Space, namespace: &str, mut dice: Option<Dice>) -> Result<Json> {
    let space = Space::open(&format!("{}-{namespace}", space.namespace))?;
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineNetwork, metadata: {{name: lan}}, \
          spec: {{nat: {{subnet: 192.168.166.0/24}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineImage, metadata: {{name: own}}, \
          spec: {{source: {{http: {{url: '{}'}}}}}}}}",
        space.cluster.url(&format!("tiny.qcow2?story={}", space.namespace))
    ))?;
    let vm = space
        .blank("web")
        .on("h1")
        .with(
            "spec: {networks: [{name: lan, network: {name: lan}}], cloudInit: {userData: '#cloud-config'}, \
             disks: [{name: root, template: {source: {image: {name: own}}}}, \
                     {name: data, template: {size: 8Mi, source: {blank: {}}}}]}",
        )
        .apply()?;
    shake(&space, dice.as_mut())?;
    vm.is_ready()?;
    let calm_down = dice.is_some().then(|| space.cluster.is_whole());
    calm_down.transpose()?;
    vm.is_ready()?;
    let seen = converged(&space)?;
    vm.delete()?;
    shake(&space, dice.as_mut())?;
    vm.is_gone()?;
    space.close()?;
    Ok(seen)
}

/// Kills one or two processes of ours, each at a random moment.
fn shake(space: &Space, dice: Option<&mut Dice>) -> Result<()> {
    let Some(dice) = dice else { return Ok(()) };
    let start = Instant::now();
    let mut moments: Vec<_> = (0..=dice.roll(2)).map(|_| (dice.roll(SPAN.as_millis() as u64), dice.roll(2))).collect();
    moments.sort_unstable();
    for (moment, which) in moments {
        thread::sleep(Duration::from_millis(moment).saturating_sub(start.elapsed()));
        let what = if which == 0 { "executor" } else { "controller" };
        println!("  {moment} ms: kill -9 of the {what}");
        // It may not have come back from the last one: as good a moment as any.
        let killed = match which {
            0 => space.cluster.kill_and_replace_executor(&space.cluster.host("h1")),
            _ => space.cluster.kill_and_replace_controller(),
        };
        if let Err(error) = killed {
            println!("  {error:#}");
        }
    }
    Ok(())
}

/// The shapes of all objects, once they do not change any more.
fn converged(space: &Space) -> Result<Json> {
    let shapes = || -> Result<Json> {
        let mut shapes = Vec::new();
        for kind in [api::VM, api::DISK, api::NETWORK, api::IMAGE] {
            shapes.extend(space.api().list(kind, &space.namespace)?.iter().map(shape));
        }
        let pods = space.api().list(api::POD, &space.namespace)?;
        shapes.push(pods.iter().map(|pod| pod["status"]["phase"].clone()).collect());
        Ok(shapes.into())
    };
    wait_for("the objects are at rest", within(60), || {
        let before = shapes()?;
        thread::sleep(Duration::from_secs(2));
        if shapes()? == before { Ok(Some(before)) } else { Err(anyhow!("they change")) }
    })
}
