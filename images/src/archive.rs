//! An image as an archive in the OCI image layout, which `ctr images import`, `skopeo copy oci-archive:` and
//! `docker load` read.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::name::Registry;
use crate::tree::Tree;

/// What an image is made of.
pub(crate) struct Contents<'a> {
    /// Tar archives, the lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
    /// The path of the program in the image.
    pub(crate) entrypoint: &'a str,
    /// `UID:GID`.
    pub(crate) user: &'a str,
}

/// The archive's bytes: the same for the same contents and name.
pub(crate) fn write(contents: Contents<'_>, registry: &Registry, image: &str, version: &str) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::default();
    let layers: Vec<_> = contents.layers.into_iter().map(|layer| archive.add(TAR, layer)).collect();
    // A layer is stored as it is, so the digest of the archive is also the one of what is in it.
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture()?,
        "os": "linux",
        "config": {"Entrypoint": [contents.entrypoint], "User": contents.user, "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = archive.add_json("application/vnd.oci.image.config.v1+json", &config);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let mut manifest = archive.add_json(MANIFEST, &manifest);
    manifest["annotations"] = json!({
        // containerd takes the whole name from the first of these, others only the tag from the second.
        "io.containerd.image.name": registry.full_name(image, version),
        "org.opencontainers.image.ref.name": version,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    let docker = json!([{
        "Config": blob_path(&config),
        "RepoTags": [registry.name(image, version)],
        "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
    }]);
    archive.tree.insert_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(), 0o644);
    archive.tree.insert_file("index.json", index.to_string().into_bytes(), 0o644);
    archive.tree.insert_file("manifest.json", docker.to_string().into_bytes(), 0o644);
    archive.tree.to_tar().map_err(crate::error::at(format!("{image}.tar")))
}

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Default)]
struct Archive {
    tree: Tree,
}

impl Archive {
    /// Stores the bytes under their digest and returns their descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.tree.insert_file(&blob_path(&descriptor), bytes, 0o644);
        descriptor
    }

    fn add_json(&mut self, media_type: &str, document: &Value) -> Value {
        self.add(media_type, document.to_string().into_bytes())
    }
}

fn blob_path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

/// The architecture of this machine, as Go and OCI call it.
fn architecture() -> Result<&'static str, Error> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(Error::Architecture(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn contents() -> Contents<'static> {
        Contents { layers: vec![b"base".to_vec(), b"program".to_vec()], entrypoint: "/program", user: "1:2" }
    }

    fn archive() -> Vec<u8> {
        write(contents(), &Registry::default(), "controller", "0.1.0").unwrap()
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        files
    }

    fn json_of(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    /// Follows a descriptor, and checks that it says the truth.
    fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let bytes = &files[&blob_path(descriptor)];
        assert_eq!(descriptor["digest"], format!("sha256:{}", hex::encode(Sha256::digest(bytes))));
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn is_an_image_layout_whose_descriptors_are_true() {
        let files = files(&archive());
        assert_eq!(json_of(&files, "oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
        let index = json_of(&files, "index.json");
        let manifest: Value = serde_json::from_slice(follow(&files, &index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(follow(&files, &manifest["config"])).unwrap();
        assert_eq!(follow(&files, &manifest["layers"][0]), b"base");
        assert_eq!(follow(&files, &manifest["layers"][1]), b"program");
        assert_eq!(config["rootfs"]["diff_ids"][1], manifest["layers"][1]["digest"]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/program"]));
        assert_eq!(config["config"]["User"], "1:2");
        assert_eq!(config["architecture"], architecture().unwrap());
        let blobs = files.keys().filter(|path| path.starts_with("blobs/sha256/") && !path.ends_with('/')).count();
        assert_eq!(blobs, 4, "two layers, the configuration and the manifest");
    }

    #[test]
    fn carries_the_name_that_the_kubelet_asks_for() {
        let index = json_of(&files(&archive()), "index.json");
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "docker.io/kubevmm/controller:0.1.0");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "0.1.0");
    }

    #[test]
    fn docker_finds_the_same_blobs() {
        let files = files(&archive());
        let entry = &json_of(&files, "manifest.json")[0];
        assert_eq!(entry["RepoTags"], json!(["kubevmm/controller:0.1.0"]));
        assert_eq!(files[entry["Layers"][1].as_str().unwrap()], b"program");
        assert!(files.contains_key(entry["Config"].as_str().unwrap()));
    }

    #[test]
    fn equal_contents_give_equal_bytes() {
        assert_eq!(archive(), archive());
    }
}
