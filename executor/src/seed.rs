//! The NoCloud seed of cloud-init: a small FAT file system with the label `CIDATA`, made in memory. The same input gives
//! the same bytes, so a seed that is there already can be compared and left alone.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

const LABEL: [u8; 11] = *b"CIDATA     ";
/// Fixed, so that the bytes depend on the content alone ("KVMM").
const VOLUME_ID: u32 = 0x4b56_4d4d;
const SECTOR_BYTES: usize = 512;
const CLUSTER_BYTES: usize = 2048;
/// Room for the boot sector, the allocation tables and the root directory.
const OVERHEAD_BYTES: usize = 128 * 1024;
const MIN_BYTES: usize = 512 * 1024;

/// What cloud-init is given. The contents are written as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed<'a> {
    /// cloud-init runs its once-per-instance parts again when this changes.
    pub instance_id: &'a str,
    /// The guest's host name.
    pub hostname: &'a str,
    /// `user-data`: `#cloud-config` or a script; empty for none.
    pub user_data: &'a [u8],
    /// `network-config`; without it cloud-init uses DHCP on the first NIC.
    pub network_config: Option<&'a [u8]>,
}

impl Seed<'_> {
    /// The bytes of the image.
    ///
    /// # Errors
    /// Only if the file system cannot be made, which no content should cause.
    pub fn to_image(&self) -> std::io::Result<Vec<u8>> {
        let meta_data = self.meta_data()?;
        let mut files: Vec<(&str, &[u8])> = vec![("meta-data", &meta_data), ("user-data", self.user_data)];
        files.extend(self.network_config.map(|network_config| ("network-config", network_config)));

        let mut image = Cursor::new(vec![0; image_bytes(&files)]);
        let options = FormatVolumeOptions::new()
            .volume_label(LABEL)
            .volume_id(VOLUME_ID)
            .bytes_per_cluster(u32::try_from(CLUSTER_BYTES).unwrap_or(u32::MAX));
        fatfs::format_volume(&mut image, options)?;
        {
            // Without its feature `chrono`, fatfs stamps every file with 1980-01-01.
            let file_system = FileSystem::new(&mut image, FsOptions::new())?;
            for (name, content) in files {
                let mut file = file_system.root_dir().create_file(name)?;
                file.write_all(content)?;
                file.flush()?;
            }
            file_system.unmount()?;
        }
        Ok(image.into_inner())
    }

    /// A line for each key, which small readers of NoCloud want; a JSON string is a quoted YAML scalar.
    fn meta_data(&self) -> std::io::Result<Vec<u8>> {
        let (instance_id, hostname) = (serde_json::to_string(self.instance_id)?, serde_json::to_string(self.hostname)?);
        Ok(format!("instance-id: {instance_id}\nlocal-hostname: {hostname}\n").into_bytes())
    }
}

fn image_bytes(files: &[(&str, &[u8])]) -> usize {
    let content: usize = files.iter().map(|(_, content)| content.len().next_multiple_of(CLUSTER_BYTES)).sum();
    (content + content / 64 + OVERHEAD_BYTES).max(MIN_BYTES).next_multiple_of(SECTOR_BYTES * 128)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    const SEED: Seed<'static> = Seed {
        instance_id: "0c4e8a5e-1b1a-4c8e-9d3e-5f6a7b8c9d0e",
        hostname: "web",
        user_data: b"#cloud-config\n",
        network_config: None,
    };

    fn read(image: Vec<u8>) -> Vec<(String, Vec<u8>)> {
        let file_system = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label(), "CIDATA");
        assert_eq!(file_system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        let files = file_system.root_dir().iter().map(|entry| {
            let entry = entry.unwrap();
            let mut content = Vec::new();
            entry.to_file().read_to_end(&mut content).unwrap();
            (entry.file_name(), content)
        });
        files.collect()
    }

    #[test]
    fn the_seed_holds_the_files_that_cloud_init_looks_for() {
        let seed = Seed { network_config: Some(b"version: 2\n"), ..SEED };
        let files = read(seed.to_image().unwrap());
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["meta-data", "user-data", "network-config"]);
        assert_eq!(files[1].1, b"#cloud-config\n");
        assert_eq!(files[2].1, b"version: 2\n");
        let meta_data: serde_json::Value = serde_yaml_ng::from_slice(&files[0].1).unwrap();
        assert_eq!(meta_data["instance-id"], SEED.instance_id);
        assert_eq!(meta_data["local-hostname"], "web");
    }

    #[test]
    fn without_a_network_config_there_is_no_such_file() {
        let names: Vec<_> = read(SEED.to_image().unwrap()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["meta-data", "user-data"]);
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(SEED.to_image().unwrap(), SEED.to_image().unwrap());
        let other = Seed { hostname: "db", ..SEED };
        assert_ne!(SEED.to_image().unwrap(), other.to_image().unwrap());
    }

    #[test]
    fn a_seed_is_small() {
        assert_eq!(SEED.to_image().unwrap().len(), MIN_BYTES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn content_of_any_size_comes_back(size in 0_usize..9_000_000, byte: u8) {
            let user_data = vec![byte; size];
            let seed = Seed { user_data: &user_data, network_config: Some(&user_data), ..SEED };
            let files = read(seed.to_image().unwrap());
            prop_assert!(files[1].1 == user_data && files[2].1 == user_data);
        }
    }
}
