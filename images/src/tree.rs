//! A file tree in memory, and its one form as a tar archive: equal trees give equal bytes.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, at};

/// Files and symbolic links by path, without a leading slash. Everything is owned by root; directories are implied.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Tree(BTreeMap<String, Node>);

/// What stands at a path.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    File { content: Vec<u8>, mode: u32 },
    Symlink { target: String },
}

impl Tree {
    /// Adds or replaces a file.
    pub(crate) fn insert_file(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        self.0.insert(path.to_owned(), Node::File { content, mode });
    }

    /// Reads a tar archive; `origin` is named in errors. Device nodes and the like are left out.
    pub(crate) fn from_tar(archive: impl Read, origin: &Path) -> Result<Self, Error> {
        let mut tree = Self::default();
        for entry in tar::Archive::new(archive).entries().map_err(at(origin))? {
            let mut entry = entry.map_err(at(origin))?;
            let path = relative(&entry.path().map_err(at(origin))?);
            let link = entry.link_name().map_err(at(origin))?.map(|target| target.into_owned());
            let node = match (entry.header().entry_type(), link) {
                (tar::EntryType::Regular, _) => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).map_err(at(origin))?;
                    Node::File { content, mode: entry.header().mode().map_err(at(origin))? & 0o777 }
                }
                (tar::EntryType::Symlink, Some(target)) => {
                    Node::Symlink { target: target.to_string_lossy().into_owned() }
                }
                // A second name of a file becomes a file of its own: the order of names then does not matter.
                (tar::EntryType::Link, Some(target)) => {
                    let target = relative(&target);
                    tree.0.get(&target).cloned().ok_or(Error::HardLink { link: path.clone(), target })?
                }
                _ => continue,
            };
            tree.0.insert(path, node);
        }
        Ok(tree)
    }

    /// The same bytes for the same tree: entries in the order of their paths, all times zero.
    pub(crate) fn to_tar(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut directories = std::collections::BTreeSet::new();
        for (path, node) in &self.0 {
            for (end, _) in path.match_indices('/') {
                if directories.insert(&path[..end]) {
                    let mut header = header(tar::EntryType::Directory, 0o755, 0);
                    archive.append_data(&mut header, format!("{}/", &path[..end]), std::io::empty())?;
                }
            }
            match node {
                Node::File { content, mode } => {
                    let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Node::Symlink { target } => {
                    archive.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?;
                }
            }
        }
        archive.into_inner()
    }

    /// Keeps only the paths for which `wanted` is true.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|path, _| wanted(path));
    }

    /// Takes the files that match `pattern` out of the tree and appends them to each other, in the order of their paths.
    pub(crate) fn concatenate(&mut self, pattern: &glob::Pattern) -> Vec<u8> {
        let mut content = Vec::new();
        self.0.retain(|path, node| match node {
            Node::File { content: part, .. } if pattern.matches(path) => {
                content.append(part);
                false
            }
            _ => true,
        });
        content
    }

    /// The paths, in order.
    #[cfg(test)]
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

fn relative(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.trim_start_matches("./").trim_start_matches('/').to_owned()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, content) in files {
            tree.insert_file(path, content.as_bytes().to_vec(), 0o644);
        }
        tree
    }

    fn read(bytes: &[u8]) -> Tree {
        Tree::from_tar(bytes, Path::new("test.tar")).unwrap()
    }

    #[test]
    fn the_order_of_insertion_does_not_show() {
        let one = tree(&[("a/b", "1"), ("a/c/d", "2"), ("e", "3")]);
        let other = tree(&[("e", "3"), ("a/c/d", "2"), ("a/b", "1")]);
        assert_eq!(one.to_tar().unwrap(), other.to_tar().unwrap());
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let mut tree = tree(&[("a/b", "1"), (&"long/".repeat(40), "2")]);
        tree.insert_file("bin/program", vec![0, 1, 2], 0o755);
        tree.0.insert("a/l".into(), Node::Symlink { target: "b".into() });
        assert_eq!(read(&tree.to_tar().unwrap()), tree);
    }

    #[test]
    fn a_directory_stands_before_what_it_holds_and_only_once() {
        let bytes = tree(&[("a/b/c", ""), ("a/b/d", ""), ("a/e", "")]).to_tar().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let paths: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(paths, ["a/", "a/b/", "a/b/c", "a/b/d", "a/e"]);
    }

    #[test]
    fn owners_times_and_set_user_id_bits_of_the_source_are_lost() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut entry = header(tar::EntryType::Regular, 0o4755, 1);
        entry.set_uid(1000);
        entry.set_mtime(1_700_000_000);
        archive.append_data(&mut entry, "./bin/su", "x".as_bytes()).unwrap();
        let bytes = read(&archive.into_inner().unwrap()).to_tar().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().unwrap().nth(1).unwrap().unwrap();
        let header = entry.header();
        assert_eq!(entry.path().unwrap(), Path::new("bin/su"));
        assert_eq!((header.uid().unwrap(), header.mtime().unwrap(), header.mode().unwrap()), (0, 0, 0o755));
    }

    #[test]
    fn a_hard_link_becomes_a_file_and_a_device_is_left_out() {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header(tar::EntryType::Regular, 0o644, 1), "./a", "x".as_bytes()).unwrap();
        archive.append_link(&mut header(tar::EntryType::Link, 0o644, 0), "./b", "./a").unwrap();
        archive.append_data(&mut header(tar::EntryType::Char, 0o644, 0), "./dev/null", std::io::empty()).unwrap();
        assert_eq!(read(&archive.into_inner().unwrap()), tree(&[("a", "x"), ("b", "x")]));
    }

    #[test]
    fn concatenates_in_the_order_of_paths() {
        let mut tree = tree(&[("certs/b.crt", "2\n"), ("certs/a.crt", "1\n"), ("certs/a.txt", "no")]);
        let pattern = glob::Pattern::new("certs/*.crt").unwrap();
        assert_eq!(tree.concatenate(&pattern), b"1\n2\n");
        assert_eq!(tree.paths(), ["certs/a.txt"]);
    }
}
