//! `cargo xtask generate [--check]`: files made from the code. `--check` writes nothing and fails when one is stale.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::run::{BUILD_PROGRAMS, cargo, output, root, run, say, target_dir};

/// A file, and the command whose stdout it holds.
struct Generated {
    file: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    /// What is made of the stdout before it goes into the file.
    form: fn(&str) -> Result<String>,
}

const GENERATED: [Generated; 7] = [
    Generated {
        file: "crds/relayclusters.nightjar.dev.yaml",
        program: "nightjar-operator",
        args: &["crd"],
        form: as_it_is,
    },
    Generated {
        file: "charts/nightjar/templates/crds/relayclusters.nightjar.dev.yaml",
        program: "nightjar-operator",
        args: &["crd"],
        form: chart_template,
    },
    Generated {
        file: "docs/reference/relaycluster.md",
        program: "nightjar-operator",
        args: &["crd", "--docs"],
        form: as_it_is,
    },
    Generated {
        file: "docs/reference/cli.md",
        program: "nightjar",
        args: &["man", "--markdown"],
        form: as_it_is,
    },
    Generated {
        file: "docs/reference/errors.md",
        program: "nightjar",
        args: &["explain", "--book"],
        form: as_it_is,
    },
    Generated {
        file: "docs/reference/metrics-relay.md",
        program: "nightjar-relay",
        args: &["--metrics-docs"],
        form: as_it_is,
    },
    Generated {
        file: "docs/reference/metrics-operator.md",
        program: "nightjar-operator",
        args: &["crd", "--metrics-docs"],
        form: as_it_is,
    },
];

pub(crate) fn generate(args: &[String]) -> Result<ExitCode> {
    let check = match args {
        [] => false,
        [only] if only == "--check" => true,
        _ => bail!("`cargo xtask generate [--check]`"),
    };
    run(&mut cargo(&BUILD_PROGRAMS))?;
    let programs = target_dir()?.join("debug");
    let mut stale = Vec::new();
    for generated in &GENERATED {
        let text = output(
            Command::new(programs.join(generated.program))
                .args(generated.args)
                .current_dir(root()),
        )?;
        let text = String::from_utf8(text)
            .with_context(|| format!("what belongs into {} is not UTF-8", generated.file))?;
        let text =
            (generated.form)(&text).with_context(|| format!("cannot make {}", generated.file))?;
        let path = root().join(generated.file);
        if fs::read_to_string(&path).ok().as_ref() == Some(&text) {
            continue;
        }
        if check {
            stale.push(generated.file);
        } else {
            write(&path, &text)?;
            say(&format!("wrote {}", generated.file));
        }
    }
    if !stale.is_empty() {
        bail!(
            "stale: {}. Run `cargo xtask generate` and commit",
            stale.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn as_it_is(text: &str) -> Result<String> {
    Ok(text.to_owned())
}

/// The definition as a template of the chart: behind `crds.enabled`, with the chart's labels, and kept on uninstall by
/// `crds.keep`.
fn chart_template(definition: &str) -> Result<String> {
    const OBJECT: &str = "apiVersion: ";
    const METADATA: &str = "\nmetadata:\n";
    const MORE: &str = "  labels: {{- include \"nightjar.labels\" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
";
    let (comment, object) = definition
        .find(OBJECT)
        .map(|at| definition.split_at(at))
        .context("it holds no object")?;
    // Braces of its own would be taken for the template's.
    let object = object.replace("{{", "{{ \"{{\" }}");
    let (head, tail) = object.split_once(METADATA).context("it has no metadata")?;
    Ok(format!(
        "{comment}{{{{- if .Values.crds.enabled }}}}\n{head}{METADATA}{MORE}{tail}{{{{- end }}}}\n"
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_becomes_a_template_behind_its_switches() {
        let template =
            chart_template("# made\napiVersion: v1\nmetadata:\n  name: a\nspec: '{{x}}'\n")
                .expect("a template");
        assert!(template.starts_with(
            "# made\n{{- if .Values.crds.enabled }}\napiVersion: v1\nmetadata:\n  labels:"
        ));
        assert!(template.contains("{{- if .Values.crds.keep }}"));
        assert!(template.ends_with("  name: a\nspec: '{{ \"{{\" }}x}}'\n{{- end }}\n"));
    }
}
