//! libvirt's own test documents: from `$KUBEVMM_CORPUS` (a tarball or a directory with one), else from
//! `shared/corpus` beside the repository's directory, else from Debian's source package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Apt;

/// A document of the corpus.
pub(crate) struct Document {
    /// Path below libvirt's `tests`.
    pub(crate) name: String,
    /// Content.
    pub(crate) bytes: Vec<u8>,
}

/// How many documents libvirt 11.3.0 has in its tests, links to others among them counted.
const COUNT: usize = 4317;

/// All XML documents of libvirt's tests, sorted by name.
pub(crate) fn documents() -> Vec<Document> {
    let tarball = tarball().unwrap_or_else(|why| panic!("{why}"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("corpus-{}", std::process::id()));
    std::fs::create_dir_all(&target).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(&tarball).arg("-C").arg(&target).args(["--wildcards", "*tests/*.xml"]);
    assert!(tar.status().unwrap().success(), "{tar:?}");
    let mut documents = Vec::new();
    collect(&target, &mut documents);
    std::fs::remove_dir_all(&target).unwrap();
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(documents.len(), COUNT, "documents in {}; is it of libvirt 11.3.0?", tarball.display());
    documents
}

/// Where the documents are, or why there are none.
pub(crate) fn tarball() -> Result<PathBuf, String> {
    if let Some(place) = std::env::var_os("KUBEVMM_CORPUS") {
        return find(Path::new(&place)).ok_or_else(|| format!("{}: no tarball of libvirt", place.display()));
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    find(&beside).or_else(download).ok_or_else(|| {
        "no corpus: set KUBEVMM_CORPUS to the source tarball of libvirt 11.3.0, or its directory".to_owned()
    })
}

fn download() -> Option<PathBuf> {
    let apt = Apt::new("corpus", "deb-src");
    let orig = ".orig.tar.xz";
    apt.find(orig).or_else(|| {
        // Only the tarball counts: a mirror may lack the rest of the source package.
        let _ = apt.get(&["update"]) && apt.get(&["source", "--download-only", "libvirt"]);
        apt.find(orig)
    })
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

fn collect(directory: &Path, documents: &mut Vec<Document>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, documents);
        } else {
            let name = path.display().to_string();
            let name = name.split_once("tests/").unwrap().1.to_owned();
            documents.push(Document { name, bytes: std::fs::read(&path).unwrap() });
        }
    }
}
