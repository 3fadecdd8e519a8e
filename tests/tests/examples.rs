//! Every file in `examples/` is valid.

use std::process::Command;

use nightjar_tests::programs::{program, root};

#[test]
fn every_example_validates() {
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("examples"))
        .expect("examples/")
        .flatten()
    {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let output = Command::new(program("nightjar-operator"))
            .arg("validate")
            .arg(&path)
            .output()
            .expect("nightjar-operator starts");
        assert!(
            output.status.success(),
            "{}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        checked += 1;
    }
    assert!(checked > 0, "no examples");
}
