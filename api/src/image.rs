//! VirtualMachineImage and its cluster-wide twin: a bootable image that disks are copied from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

macro_rules! image_kind {
    ($spec:ident, $kind:literal, $plural:literal, $short:literal, $doc:literal $(, $scope:ident)?) => {
        #[doc = $doc]
        #[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[kube(
            group = "kubevmm.io",
            version = "v1beta1",
            kind = $kind,
            plural = $plural,
            shortname = $short,
            category = "kubevmm",
            $($scope,)?
            status = "VirtualMachineImageStatus",
            derive = "PartialEq",
            doc = $doc,
            printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
            printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
            printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.readyHosts"),
            printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
            printcolumn(name = "URL", type_ = "string", json_path = ".spec.source.http.url", priority = "1"),
            printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
        )]
        #[serde(rename_all = "camelCase")]
        #[schemars(extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "an image is immutable: disks are based on it; create another image",
        }]))]
        pub struct $spec {
            /// Where the image comes from.
            pub source: ImageSource,
            /// `sha256:` and 64 hexadecimal digits of what the source serves. Without it, the digest of the first
            /// download is kept in status.digest, and every later download must match it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
            pub checksum: Option<String>,
            /// Format of the image: qcow2 or raw. Read from the image itself, when left out.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub format: Option<ImageFormat>,
        }
    };
}

image_kind!(
    VirtualMachineImageSpec,
    "VirtualMachineImage",
    "virtualmachineimages",
    "vmimg",
    "A bootable image of a namespace. Each host downloads it once, when the first disk there needs it.",
    namespaced
);
image_kind!(
    ClusterVirtualMachineImageSpec,
    "ClusterVirtualMachineImage",
    "clustervirtualmachineimages",
    "cvmimg",
    "A bootable image for every namespace. Each host downloads it once, when the first disk there needs it."
);

/// Format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's copy-on-write format.
    Qcow2,
    /// The plain bytes of a disk.
    Raw,
}

impl ImageFormat {
    /// The name that libvirt and file names use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// A web server.
    pub http: HttpSource,
}

/// An image on a web server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// Address of the image; http or https. The hosts must reach it.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[^\s/@]+(/[^\s]*)?$"))]
    pub url: String,
}

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineImageStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `sha256:` digest that every download must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of the disk that the image holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<Quantity>,
    /// Number of hosts that have the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_hosts: Option<i32>,
    /// Progress of the download that is furthest, for example 42%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
}
