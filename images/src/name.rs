//! Image names, and the one place that changes them in the manifests.

use crate::error::Error;

/// The registry and path in front of `kubevmm/`; without it, names have no registry host.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Registry(Option<String>);

impl Registry {
    /// The empty text is no registry. A slash at the end does not count.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let prefix = text.trim_end_matches('/');
        if prefix.is_empty() {
            return Ok(Self(None));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_/".contains(&byte);
        let host = prefix.split('/').next().unwrap_or_default();
        // What has neither a dot nor a port would be read as a path on the default registry.
        let is_host = host.contains(['.', ':']) || host == "localhost";
        if prefix.contains("//") || prefix.starts_with('/') || !prefix.bytes().all(allowed) || !is_host {
            return Err(Error::Registry(text.to_owned()));
        }
        Ok(Self(Some(prefix.to_owned())))
    }

    /// The name that manifests use: `kubevmm/controller:0.1.0`, with the registry in front if there is one.
    pub(crate) fn name(&self, image: &str, version: &str) -> String {
        let short = format!("kubevmm/{image}:{version}");
        self.0.as_ref().map_or_else(|| short.clone(), |prefix| format!("{prefix}/{short}"))
    }

    /// The name under which a container runtime looks the image up: a name without a host is on `docker.io`.
    pub(crate) fn full_name(&self, image: &str, version: &str) -> String {
        let name = self.name(image, version);
        if self.0.is_some() { name } else { format!("docker.io/{name}") }
    }

    /// The manifest with every name of one of `images` changed to this registry and version, and nothing else.
    pub(crate) fn rename(&self, manifest: &str, images: &[&str], version: &str) -> String {
        let is_part = |c: char| c.is_ascii_alphanumeric() || ".:-_/".contains(c);
        let mut renamed = String::with_capacity(manifest.len());
        let mut rest = manifest;
        while let Some(start) = rest.find(is_part) {
            let (before, word_on) = rest.split_at(start);
            let (word, after) = word_on.split_at(word_on.find(|c| !is_part(c)).unwrap_or(word_on.len()));
            renamed.push_str(before);
            match images.iter().find(|image| names_image(word, image)) {
                Some(image) => renamed.push_str(&self.name(image, version)),
                None => renamed.push_str(word),
            }
            rest = after;
        }
        renamed + rest
    }
}

/// Whether `word` is `kubevmm/<image>:<tag>`, with or without a registry.
fn names_image(word: &str, image: &str) -> bool {
    let Some((name, tag)) = word.rsplit_once(':') else { return false };
    let Some(before) = name.strip_suffix(&format!("kubevmm/{image}")) else { return false };
    !tag.is_empty() && !tag.contains('/') && (before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: &[&str] = &["controller", "pause"];

    fn registry(text: &str) -> Registry {
        Registry::parse(text).unwrap()
    }

    #[test]
    fn names_with_and_without_a_registry() {
        assert_eq!(registry("").name("pause", "1.2.3"), "kubevmm/pause:1.2.3");
        assert_eq!(registry("").full_name("pause", "1.2.3"), "docker.io/kubevmm/pause:1.2.3");
        let with = registry("localhost:5000/team/");
        assert_eq!(with.name("pause", "1.2.3"), "localhost:5000/team/kubevmm/pause:1.2.3");
        assert_eq!(with.full_name("pause", "1.2.3"), with.name("pause", "1.2.3"));
    }

    #[test]
    fn refuses_what_is_no_registry() {
        for text in
            ["https://registry.example.org", "team", "registry.example.org/a b", "/registry.example.org", "a.b//c"]
        {
            let error = Registry::parse(text).unwrap_err();
            assert!(error.to_string().contains("registry.example.org/team"), "{text}: {error}");
        }
    }

    #[test]
    fn renames_images_and_nothing_else() {
        let manifest = "\
# kubevmm/controller is the image
image: kubevmm/controller:0.0.9   # kept
args: [--pause-image=kubevmm/pause:0.1.0, \"--x=kubevmm/other:1\"]
image: \"old.example.org:5000/a/kubevmm/controller:0.1.0\"
url: https://kubevmm.io/pause:1
name: mykubevmm/pause:1
";
        let expected = "\
# kubevmm/controller is the image
image: registry.example.org/kubevmm/controller:0.1.0   # kept
args: [--pause-image=registry.example.org/kubevmm/pause:0.1.0, \"--x=kubevmm/other:1\"]
image: \"registry.example.org/kubevmm/controller:0.1.0\"
url: https://kubevmm.io/pause:1
name: mykubevmm/pause:1
";
        let with = registry("registry.example.org").rename(manifest, IMAGES, "0.1.0");
        assert_eq!(with, expected);
        let back = registry("").rename(&with, IMAGES, "0.1.0");
        assert!(back.contains("image: kubevmm/controller:0.1.0   # kept"), "{back}");
        assert_eq!(registry("").rename(&back, IMAGES, "0.1.0"), back);
    }
}
