use super::*;

const SIZE: &str = "allocatable: {cpu: '8', memory: 8Gi}, cpus: 8";

fn scored(needs_of: &str, status: &str, policy: Policy) -> u32 {
    let status = format!("{SIZE}, {status}");
    score(&needs(needs_of), &facts(&offer(&status), &Claims::default()), policy)
}

#[test]
fn an_image_in_the_right_pool_counts_most_and_one_on_its_way_half() {
    let need = "images: [{kind: ClusterVirtualMachineImage, name: deb, pool: fast}]";
    let image = |kind: &str, pool: &str, state: &str| {
        format!("images: [{{kind: {kind}, name: deb, uid: i, poolName: {pool}, volumeName: v, state: {state}}}]")
    };
    let with = |kind: &str, pool: &str, state: &str| scored(need, &image(kind, pool, state), Policy::Spread);
    let none = scored(need, "", Policy::Spread);
    assert_eq!(with("ClusterVirtualMachineImage", "fast", "Downloaded"), none + 40);
    assert_eq!(with("ClusterVirtualMachineImage", "fast", "Downloading"), none + 20);
    assert_eq!(with("ClusterVirtualMachineImage", "fast", "Failed"), none);
    assert_eq!(with("ClusterVirtualMachineImage", "slow", "Downloaded"), none);
    assert_eq!(with("VirtualMachineImage", "fast", "Downloaded"), none);
}

#[test]
fn the_host_where_it_was_is_better() {
    assert_eq!(scored("lastNode: a", "", Policy::Spread), scored("lastNode: b", "", Policy::Spread) + 20);
}

#[test]
fn spread_wants_the_emptier_host_and_pack_the_fuller() {
    let used = |vcpus: u32, memory: &str| format!("used: {{domains: 1, vcpus: {vcpus}, memory: {memory}}}");
    let (empty, half, uneven) = (used(0, "0"), used(4, "4Gi"), used(8, "0"));
    let of = |status: &str, policy| scored("vcpus: 0, memory: 0", status, policy);
    assert_eq!([&empty, &half, &uneven].map(|status| of(status, Policy::Spread)), [40, 25, 15]);
    assert_eq!([&empty, &half, &uneven].map(|status| of(status, Policy::Pack)), [10, 25, 15]);
}

#[test]
fn what_is_promised_counts_before_it_runs_and_not_twice() {
    let status = format!("{SIZE}, used: {{domains: 1, vcpus: 2, memory: 2Gi}}");
    let offer = offer(&status);
    let mut claims = Claims::default();
    let of = |claims: &Claims| score(&needs(""), &facts(&offer, claims), Policy::Spread);
    let running = of(&claims);
    claims.put("1", Claim::new("a", "shop/one", &needs("vcpus: 2, memory: 2147483648")));
    assert_eq!(of(&claims), running, "it is the one that runs");
    claims.put("2", Claim::new("a", "shop/two", &needs("vcpus: 2, memory: 2147483648")));
    assert_eq!(of(&claims), running - 8, "it is yet to start");
}

#[test]
fn it_is_never_out_of_bounds() {
    let full = "used: {domains: 9, vcpus: 90, memory: 90Gi}";
    for policy in [Policy::Spread, Policy::Pack] {
        for needs_of in ["", "vcpus: 4000000000, memory: 18446744073709551615, lastNode: a"] {
            assert!(scored(needs_of, full, policy) <= 100);
            let nothing = score(&needs(needs_of), &facts(&Offer::default(), &Claims::default()), policy);
            assert!((25..=45).contains(&nothing), "a host that has not told its size is in the middle: {nothing}");
        }
    }
}
