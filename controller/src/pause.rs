//! What all pods have that only stand for something: a container that does nothing, and as few rights as a pod can have.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

/// Name of the container.
pub const CONTAINER: &str = "pause";

/// The container; `image` does nothing.
pub fn pause(image: &str) -> Container {
    Container {
        name: CONTAINER.into(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".into()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            read_only_root_filesystem: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The pod around it, without the container.
pub fn idle() -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        // The pod asks no name server: it needs none of the cluster's.
        dns_policy: Some("Default".into()),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(65534),
            run_as_group: Some(65534),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
