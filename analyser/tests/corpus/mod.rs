//! libvirt's own test documents: from `$KUBEVMM_CORPUS` (a tarball or a directory with one), else from
//! `shared/corpus` beside the repository, else from Debian's source package.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A document of the corpus.
pub(crate) struct Document {
    /// Path in the tarball.
    pub(crate) name: String,
    /// Content.
    pub(crate) bytes: Vec<u8>,
}

/// All XML documents of libvirt's tests, sorted by name.
pub(crate) fn documents() -> Vec<Document> {
    let tarball = tarball();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("corpus-{}", std::process::id()));
    std::fs::create_dir_all(&target).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(&tarball).arg("-C").arg(&target).args(["--wildcards", "*.xml"]);
    assert!(tar.status().unwrap().success(), "{tar:?}");
    let mut documents = Vec::new();
    collect(&target, &target, &mut documents);
    std::fs::remove_dir_all(&target).unwrap();
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    let expected = expected(&tarball);
    assert_eq!(documents.len(), expected, "documents in {}", tarball.display());
    documents
}

/// How many documents a tarball of a known version has, links to others among them counted.
fn expected(tarball: &Path) -> usize {
    let name = tarball.file_name().unwrap().to_string_lossy().into_owned();
    match name.as_str() {
        "libvirt-11.3.0-xml.tar.xz" => 4317,
        other => panic!("{other}: not a corpus whose documents have been counted; add its number here"),
    }
}

fn tarball() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places =
        std::env::var_os("KUBEVMM_CORPUS").map(PathBuf::from).into_iter().chain([workspace.join("shared/corpus")]);
    places.filter_map(|place| find(&place)).next().expect(
        "no corpus: set KUBEVMM_CORPUS to libvirt's source tarball (apt-get source --download-only libvirt) or its directory",
    )
}

fn find(place: &Path) -> Option<PathBuf> {
    let is_corpus = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libvirt") && name.ends_with(".tar.xz")
    };
    if place.is_file() && is_corpus(place) {
        return Some(place.to_owned());
    }
    std::fs::read_dir(place).ok()?.filter_map(|e| Some(e.ok()?.path())).find(|path| is_corpus(path))
}

fn collect(root: &Path, directory: &Path, documents: &mut Vec<Document>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, documents);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            documents.push(Document { name, bytes: std::fs::read(&path).unwrap() });
        }
    }
}
