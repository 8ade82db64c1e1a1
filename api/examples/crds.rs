//! Prints `yamls/10-crds.yaml`.

fn main() -> Result<(), serde_yaml_ng::Error> {
    print!("{}", kubevmm_api::crd::manifest()?);
    Ok(())
}
