//! After all other stories: what is not ours is as it was, and of ours nothing is left.

use anyhow::Result;
use kubevmm_tests::inventory::Inventory;
use kubevmm_tests::{Space, wait_for, within};

kubevmm_tests::stories! { alone: true;
    what_is_not_ours_is_as_it_was,
    nothing_is_left_behind,
}

fn what_is_not_ours_is_as_it_was(space: &Space) -> Result<()> {
    space.cluster.foreign_is_untouched()
}

fn nothing_is_left_behind(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    cluster.remove_defaults()?;
    let hosts = cluster.libvirt_hosts();
    // dnsmasq ends a moment after its network.
    let gone = wait_for("nothing is left on the hosts", within(20), || {
        Inventory::take(&hosts)?.is_no_more_than(&cluster.before).map(Some)
    });
    cluster.apply_defaults()?;
    gone
}
