//! The list of images: which packages and files each of them holds.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The list that the project's images are built from.
pub(crate) const IMAGES: &str = include_str!("../images.yaml");

/// All images, and what those with packages have in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    pub(crate) suite: String,
    pub(crate) keep: Vec<String>,
    pub(crate) files: Vec<File>,
    /// Images of the manifests that others build.
    #[serde(default)]
    pub(crate) elsewhere: Vec<String>,
    pub(crate) images: Vec<Image>,
}

/// A file that is not taken from a package as it is.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct File {
    pub(crate) path: String,
    #[serde(flatten)]
    pub(crate) source: Source,
}

/// Where the bytes of a [`File`] come from.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Source {
    /// These bytes.
    Content(String),
    /// The package files that match this pattern, in the order of their paths. They are not in the image themselves.
    Concatenate(String),
}

/// One image: a program of the workspace, on the packages that it needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    /// The last part of the image's name.
    pub(crate) name: String,
    /// The package of the workspace, and its program, which becomes the entry point.
    pub(crate) program: String,
    #[serde(default)]
    pub(crate) packages: Vec<String>,
    /// Links the program with the C library in it.
    #[serde(default, rename = "static")]
    pub(crate) is_static: bool,
    /// `UID:GID` of the program.
    pub(crate) user: String,
}

/// Everything that decides the bytes of an image's layer of packages, but the packages' versions.
#[derive(Debug, Serialize)]
pub(crate) struct Base<'a> {
    pub(crate) suite: &'a str,
    pub(crate) packages: &'a [String],
    pub(crate) keep: &'a [String],
    pub(crate) files: &'a [File],
}

impl List {
    /// Reads and checks the list.
    pub(crate) fn parse(yaml: &str) -> Result<Self, Error> {
        let list: Self = serde_yaml_ng::from_str(yaml)?;
        for (index, image) in list.images.iter().enumerate() {
            let name = &image.name;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return Err(Error::List(format!("image name {name:?} is not made of a-z, 0-9 and -")));
            }
            if list.images[..index].iter().any(|other| other.name == *name) {
                return Err(Error::List(format!("two images are named {name}")));
            }
            if image.is_static != image.packages.is_empty() {
                return Err(Error::List(format!("image {name} must either be static or have packages to link with")));
            }
        }
        Ok(list)
    }

    /// The names of all images that the manifests use.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.images.iter().map(|image| &image.name).chain(&self.elsewhere).map(String::as_str).collect()
    }

    /// The images with these names, or all of them.
    pub(crate) fn select(&self, names: &[String]) -> Result<Vec<&Image>, Error> {
        if names.is_empty() {
            return Ok(self.images.iter().collect());
        }
        names.iter().map(|name| self.image(name)).collect()
    }

    /// What the layer of packages of `image` is made from; `None` for an image without packages.
    pub(crate) fn base<'a>(&'a self, image: &'a Image) -> Option<Base<'a>> {
        let packages = image.packages.as_slice();
        (!packages.is_empty()).then_some(Base { suite: &self.suite, packages, keep: &self.keep, files: &self.files })
    }

    fn image(&self, name: &str) -> Result<&Image, Error> {
        self.images.iter().find(|image| image.name == name).ok_or_else(|| Error::UnknownImage {
            name: name.to_owned(),
            known: self.images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(images: &str) -> Result<List, Error> {
        List::parse(&format!("suite: s\nkeep: []\nfiles: []\nimages:\n{images}"))
    }

    #[test]
    fn the_projects_own_list_is_valid() {
        let list = List::parse(IMAGES).unwrap();
        let names: Vec<_> = list.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["controller", "executor", "scheduler-extender", "pause"]);
        for pattern in list.keep.iter() {
            glob::Pattern::new(pattern).unwrap();
        }
    }

    #[test]
    fn only_the_executor_is_root() {
        let list = List::parse(IMAGES).unwrap();
        let roots: Vec<_> = list.images.iter().filter(|i| i.user.starts_with("0:")).map(|i| i.name.as_str()).collect();
        assert_eq!(roots, ["executor"]);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let error = list("- {name: a, program: p, user: '1:1', packages: [x], pakages: [y]}").unwrap_err();
        assert!(error.to_string().contains("pakages"), "{error}");
        let error = list("- {name: A/b, program: p, user: '1:1', packages: [x]}").unwrap_err();
        assert!(error.to_string().contains("\"A/b\""), "{error}");
    }

    #[test]
    fn refuses_two_images_of_one_name() {
        let image = "- {name: a, program: p, user: '1:1', static: true}\n";
        let error = list(&image.repeat(2)).unwrap_err();
        assert!(error.to_string().contains("two images are named a"), "{error}");
    }

    #[test]
    fn a_program_has_its_c_library_somewhere() {
        for image in
            ["{name: a, program: p, user: '1:1'}", "{name: a, program: p, user: '1:1', static: true, packages: [x]}"]
        {
            let error = list(&format!("- {image}")).unwrap_err();
            assert!(error.to_string().contains("image a must either be static or have packages"), "{error}");
        }
    }

    #[test]
    fn selects_by_name() {
        let list = List::parse(IMAGES).unwrap();
        assert_eq!(list.select(&[]).unwrap().len(), 4);
        assert_eq!(list.select(&["pause".to_owned()]).unwrap()[0].program, "kubevmm-pause");
        let error = list.select(&["paws".to_owned()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image is named paws; there are: controller, executor, scheduler-extender, pause"
        );
    }
}
