//! The JSON of kube-scheduler's extenders: `k8s.io/kube-scheduler/extender/v1`. Its types have no JSON names of their
//! own, so the keys are Go's field names; what is inside of a pod or node has Kubernetes' usual ones.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kubevmm_api::requirements::{REQUIREMENTS, Requirements};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Refused;

/// The highest score of the protocol; the lowest is 0.
pub const MAX_SCORE: u32 = 10;

/// A question of `filter` and `prioritize`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderArgs<'a> {
    /// The pod that is to be placed.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// The nodes, of a scheduler that does not call the extender nodeCacheCapable.
    #[serde(default)]
    pub nodes: Option<NodeList>,
    /// The names of the nodes, of one that does.
    #[serde(default, borrow)]
    pub node_names: Option<Vec<Name<'a>>>,
}

/// A name that lies in the body where it can.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Name<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// What is read of a pod.
#[derive(Debug, Default, Deserialize)]
pub struct Pod {
    /// Its metadata.
    #[serde(default)]
    pub metadata: PodMetadata,
}

/// What is read of a pod's metadata.
#[derive(Debug, Default, Deserialize)]
pub struct PodMetadata {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Its annotations.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Pod {
    /// What the pod's VM needs; `None` of an ordinary pod.
    ///
    /// # Errors
    /// When the annotation is there and is not what the controller writes.
    pub fn needs(&self) -> Result<Option<Requirements>, Refused> {
        let metadata = &self.metadata;
        let Some(text) = metadata.annotations.as_ref().and_then(|all| all.get(REQUIREMENTS)) else { return Ok(None) };
        Requirements::parse(text).map(Some).map_err(|error| Refused::Annotation {
            pod: format!("{}/{}", metadata.namespace, metadata.name),
            reason: error.to_string(),
        })
    }
}

/// A list of nodes, which is given back as it came but for those that are refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct NodeList {
    /// Metadata of the list.
    #[serde(default)]
    pub metadata: Value,
    /// The nodes.
    #[serde(default, deserialize_with = "or_null")]
    pub items: Vec<Value>,
}

/// Go writes an empty list as null.
fn or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
    Ok(Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default())
}

/// Name of a node of a list.
pub fn node_name(node: &Value) -> &str {
    node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

impl<'a> ExtenderArgs<'a> {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When it is not of this form, or lacks the pod or the nodes.
    pub fn read(body: &'a [u8]) -> Result<(Pod, Candidates<'a>), Refused> {
        let args: Self = serde_json::from_slice(body).map_err(|error| Refused::Malformed(error.to_string()))?;
        let pod = args.pod.ok_or(Refused::NoPod)?;
        let candidates = match (args.node_names, args.nodes) {
            (Some(names), _) => Candidates::Names(names),
            (None, Some(nodes)) => Candidates::Nodes(nodes),
            (None, None) => return Err(Refused::NoNodes),
        };
        Ok((pod, candidates))
    }
}

/// The nodes that are asked about.
#[derive(Debug)]
pub enum Candidates<'a> {
    /// By name.
    Names(Vec<Name<'a>>),
    /// As a whole.
    Nodes(NodeList),
}

impl Candidates<'_> {
    /// Their names.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Names(names) => names.iter().map(|name| name.0.as_ref()).collect(),
            Self::Nodes(nodes) => nodes.items.iter().map(node_name).collect(),
        }
    }
}

/// The answer of `filter`.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderFilterResult<'a> {
    /// The nodes that can take the pod, to whom has given nodes.
    pub nodes: Option<NodeList>,
    /// Their names, to whom has given names.
    pub node_names: Option<Vec<Name<'a>>>,
    /// Nodes that cannot, and why; preempting other pods may help.
    pub failed_nodes: Messages<'a>,
    /// Nodes that cannot, and why; nothing that the scheduler does helps.
    pub failed_and_unresolvable_nodes: Messages<'a>,
    /// Why there is no answer.
    pub error: String,
}

/// Nodes and what is said of them, written as a map.
#[derive(Debug, Default, PartialEq)]
pub struct Messages<'a>(pub Vec<(Cow<'a, str>, String)>);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (node, message) in &self.0 {
            map.serialize_entry(node, message)?;
        }
        map.end()
    }
}

/// A part of the answer of `prioritize`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostPriority<'a> {
    /// Name of the node.
    #[serde(borrow)]
    pub host: Cow<'a, str>,
    /// 0 to [`MAX_SCORE`].
    pub score: u32,
}

/// A question of `preempt`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderPreemptionArgs {
    /// The pod that others would be evicted for.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// Who would be, of a scheduler that does not call the extender nodeCacheCapable.
    #[serde(default)]
    pub node_name_to_victims: Option<BTreeMap<String, Victims>>,
    /// Who would be, of one that does.
    #[serde(default)]
    pub node_name_to_meta_victims: Option<BTreeMap<String, MetaVictims>>,
}

/// The pods of a node that would be evicted, as they are.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Victims {
    /// The pods.
    #[serde(default)]
    pub pods: Option<Vec<Pod>>,
    /// How many PodDisruptionBudgets that breaks.
    #[serde(default, rename = "NumPDBViolations")]
    pub violations: i64,
}

/// The pods of a node that would be evicted, by UID.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetaVictims {
    /// The pods.
    #[serde(default)]
    pub pods: Option<Vec<MetaPod>>,
    /// How many PodDisruptionBudgets that breaks.
    #[serde(default, rename = "NumPDBViolations")]
    pub violations: i64,
}

/// A pod by its UID.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct MetaPod {
    /// The UID.
    #[serde(rename = "UID")]
    pub uid: String,
}

/// The answer of `preempt`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderPreemptionResult {
    /// The nodes where it helps, with those who would be evicted there.
    pub node_name_to_meta_victims: BTreeMap<String, MetaVictims>,
}
