//! What the tests need from the machine, and how it gets there.
//!
//! Nothing is installed that is there already, and everything that is installed is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The Python of the tests' own virtual environment.
pub(crate) fn python() -> PathBuf {
    target().join("compat/venv/bin/python")
}

/// The Python that has Keystone.
pub(crate) fn keystone_python() -> PathBuf {
    target().join("compat/keystone/bin/python")
}

/// A thing the tests call, and the Debian packages that bring it.
struct Tool {
    what: &'static str,
    is_there: fn() -> bool,
    packages: &'static [&'static str],
}

const TOOLS: [Tool; 9] = [
    Tool {
        what: "a C compiler",
        is_there: || answers("cc", &["--version"]),
        packages: &["gcc", "libc6-dev"],
    },
    Tool {
        what: "Python 3.9 with venv",
        is_there: || {
            answers(
                "python3",
                &["-c", "import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 9))"],
            )
        },
        packages: &["python3", "python3-venv"],
    },
    Tool { what: "OpenSSL", is_there: || answers("openssl", &["version"]), packages: &["openssl"] },
    Tool {
        what: "Node.js 18 with npm",
        is_there: || {
            answers("node", &["-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)"])
                && answers("npm", &["--version"])
        },
        packages: &["nodejs", "npm"],
    },
    Tool {
        what: "the command-line tools of rabbitmq-c",
        is_there: || answers("amqp-publish", &["--help"]),
        packages: &["amqp-tools"],
    },
    Tool {
        what: "the headers of rabbitmq-c",
        is_there: || answers("cc", &["-E", "-include", "amqp.h", "-x", "c", "/dev/null"]),
        packages: &["librabbitmq-dev"],
    },
    Tool {
        what: "RabbitMQ, which the client library is tested on as well",
        is_there: || Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists(),
        packages: &["rabbitmq-server"],
    },
    Tool {
        what: "PostgreSQL",
        // Debian keeps the programs of each version in a folder of its own.
        is_there: || {
            let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            versions.into_iter().any(|version| version.path().join("bin/initdb").exists())
        },
        packages: &["postgresql"],
    },
    Tool {
        what: "MariaDB",
        is_there: || {
            answers("/usr/sbin/mariadbd", &["--version"])
                && Path::new("/usr/bin/mariadb-install-db").exists()
        },
        packages: &["mariadb-server"],
    },
];

/// Installs the tools that are missing, with Debian's package manager.
///
/// # Errors
///
/// If something is missing and cannot be installed; says what to install by hand.
pub(crate) fn tools() -> anyhow::Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !(tool.is_there)()).collect();
    if missing.is_empty() {
        println!(
            "every tool is there: cc, python3, openssl, node, npm, amqp-tools, librabbitmq, rabbitmq, PostgreSQL, \
             MariaDB"
        );
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    for tool in &missing {
        println!("missing: {}", tool.what);
    }
    println!("installs these Debian packages: {}", packages.join(" "));
    apt_get(&["update", "-qq"])?;
    apt_get(&[&["install", "-y", "-qq", "--no-install-recommends"], packages.as_slice()].concat())?;
    for tool in missing {
        ensure!(
            (tool.is_there)(),
            "{} is still missing after the install of {}",
            tool.what,
            tool.packages.join(" ")
        );
    }
    Ok(())
}

/// Adds rustfmt and clippy where a minimal toolchain came without them.
///
/// # Errors
///
/// If they are missing and rustup cannot add them.
pub(crate) fn components() -> anyhow::Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !answers(env!("CARGO"), &[command, "--version"]) {
            println!("installs the component {component} of the Rust toolchain");
            run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

/// Makes the virtual environment of the Python suites and installs the versions of their requirements.
///
/// # Errors
///
/// If Python or pip fail.
pub(crate) fn python_packages() -> anyhow::Result<()> {
    environment("venv", "requirements.txt").map(drop)
}

/// Real Zaqar in an environment of its own; returns its Python.
///
/// # Errors
///
/// If Python or pip fail.
pub(crate) fn zaqar() -> anyhow::Result<PathBuf> {
    environment("zaqar", "zaqar-requirements.txt")
}

/// Real Keystone in an environment of its own, see [`keystone_python`].
///
/// # Errors
///
/// If Python or pip fail.
pub(crate) fn keystone() -> anyhow::Result<()> {
    environment("keystone", "keystone-requirements.txt").map(drop)
}

/// A virtual environment in the target folder with what a list of the Python suites names; returns its Python.
fn environment(name: &str, list: &str) -> anyhow::Result<PathBuf> {
    let requirements = root().join("tests/compat/python").join(list);
    let (venv, stamp) = (target().join("compat").join(name), target().join("compat").join(list));
    let python = venv.join("bin/python");
    if python.exists() && same(&requirements, &stamp) {
        println!("the Python packages of {name} are there: {}", python.display());
        return Ok(python);
    }
    println!("installs into {}: what {} lists", venv.display(), requirements.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&python).args(quiet).arg(&requirements))?;
    std::fs::copy(&requirements, &stamp).context("cannot remember what was installed")?;
    Ok(python)
}

/// Installs Debian packages that are needed if one of the programs does not answer to `--version`.
///
/// # Errors
///
/// If they cannot be installed.
pub(crate) fn programs(wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installs these Debian packages: {}", missing.join(" "));
    apt_get(&["update", "-qq"])?;
    apt_get(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())
}

/// Whether a program can be started at all; what it says does not matter.
fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Installs the packages of the Node suite beside it; git ignores them.
///
/// # Errors
///
/// If npm fails.
pub(crate) fn node_packages() -> anyhow::Result<()> {
    let suite = root().join("tests/compat/node");
    let (manifest, stamp) = (suite.join("package.json"), suite.join("node_modules/package.json"));
    if same(&manifest, &stamp) {
        println!("the Node packages are there: {}", suite.join("node_modules").display());
        return Ok(());
    }
    println!(
        "installs into {}: what {} lists",
        suite.join("node_modules").display(),
        manifest.display()
    );
    let quiet = ["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"];
    run(Command::new("npm").args(quiet).current_dir(&suite))?;
    std::fs::copy(&manifest, &stamp).context("cannot remember what was installed")?;
    Ok(())
}

/// Runs a command to its end, with its output shown.
///
/// # Errors
///
/// If it cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {shown}"))?;
    ensure!(status.success(), "{shown} ended with {status}");
    Ok(())
}

fn apt_get(args: &[&str]) -> anyhow::Result<()> {
    if !answers("apt-get", &["--version"]) {
        bail!(
            "there is no apt-get here; install the packages named above, or what they are called on this system"
        );
    }
    let is_root =
        Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.args(["--non-interactive", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
    }
    // At this level no service that comes with a package is started.
    run(command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}

fn answers(program: &str, args: &[&str]) -> bool {
    let command = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}

fn same(left: &Path, right: &Path) -> bool {
    matches!((std::fs::read(left), std::fs::read(right)), (Ok(left), Ok(right)) if left == right)
}
