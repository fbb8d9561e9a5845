//! One container as a process: its variables, its folder with the volumes in it, its limits.
//!
//! Invariant: the environment of the process is exactly what the contract names; nothing of the shim's or server's own gets in.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit};
use tokio::process::{Child, Command};

use super::super::run_dir::{self, RunDir};
use super::super::spec::{self, Spec};
use crate::core::plan::{Container, EnvValue, KeyReference, Mount, VolumeSource};
use crate::runner::environment;

/// What an image would bring.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Memory that the shim keeps for itself while it starts a process under that process's limit.
const SHIM_MEMORY: u64 = 16 * 1024 * 1024;

/// A container that can be started.
pub(super) struct Prepared {
    command: Command,
    program: String,
    memory_limit: Option<u64>,
}

impl Prepared {
    /// Makes the container's folder ready and gathers its variables. An error is the sentence for the job's message.
    pub(super) fn new(dir: &RunDir, spec: &Spec, container: &Container, init: bool) -> Result<Self, String> {
        link_volumes(dir, spec, container)?;
        let variables = variables(dir, spec, container, init)?;
        let folder = working_folder(dir, container)?;
        let (program, first_args) = container.command.split_first().ok_or("it has no command")?;
        let mut command = Command::new(program);
        command
            .args(first_args)
            .args(&container.args)
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::null())
            .process_group(0);
        // Later ones win: what the host promises comes last.
        for (name, value) in variables {
            command.env(name, value);
        }
        Ok(Self { command, program: program.clone(), memory_limit: spec::memory_limit(container)? })
    }

    /// Starts the process with both outputs going to the log. An error is the sentence for the job's message.
    pub(super) fn spawn(mut self, log: File) -> Result<Child, String> {
        let errors = log.try_clone().map_err(|error| format!("its log cannot be shared: {error}"))?;
        self.command.stdout(log).stderr(errors);
        let own = rustix::process::getrlimit(Resource::Data);
        if let Some(limit) = self.memory_limit {
            // The child takes the limit from us, so that nothing it forks at once escapes; then it is made exact.
            let current =
                Some(limit.max(own_memory().saturating_add(SHIM_MEMORY)).min(own.maximum.unwrap_or(u64::MAX)));
            let _ = rustix::process::setrlimit(Resource::Data, Rlimit { current, maximum: own.maximum });
        }
        let child = self.command.spawn();
        let _ = rustix::process::setrlimit(Resource::Data, own);
        let child = child.map_err(|error| self.not_started(&error))?;
        if let (Some(limit), Some(pid)) =
            (self.memory_limit, child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())))
        {
            let limit = Some(limit.min(own.maximum.unwrap_or(u64::MAX)));
            let _ = rustix::process::prlimit(Some(pid), Resource::Data, Rlimit { current: limit, maximum: limit });
        }
        Ok(child)
    }

    fn not_started(&self, error: &io::Error) -> String {
        let program = self.program.chars().take(200).collect::<String>();
        match error.kind() {
            ErrorKind::NotFound => format!("the command '{program}', or what interprets it, was not found"),
            ErrorKind::PermissionDenied => format!("the command '{program}' is not executable"),
            _ => format!("the command '{program}' could not be executed: {error}"),
        }
    }
}

/// Bytes of data that this process has now.
fn own_memory() -> u64 {
    let mut text = String::new();
    let read = File::open("/proc/self/status").and_then(|mut file| file.read_to_string(&mut text));
    let line = read.ok().and_then(|_| text.lines().find_map(|line| line.strip_prefix("VmData:")));
    line.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(SHIM_MEMORY)
        .saturating_mul(1024)
}

/// Sets the limits that containers inherit: no core files, so many open files.
pub(super) fn limit_own_resources(spec: &Spec) {
    let none = Some(0);
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: none, maximum: none });
    let files = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(spec.open_files.max(64));
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) });
}

/// The variables of a container, in an order in which later ones win.
fn variables(dir: &RunDir, spec: &Spec, container: &Container, init: bool) -> Result<Vec<(String, OsString)>, String> {
    let mut variables = vec![("PATH".to_owned(), OsString::from(PATH))];
    for variable in &container.env {
        let value = match &variable.value {
            EnvValue::Literal(text) => Some(OsString::from(text)),
            EnvValue::SecretKey(key) => value_of(dir, "secret", "secrets", key)?,
            EnvValue::ConfigMapKey(key) => value_of(dir, "config map", "config-maps", key)?,
            EnvValue::Inputs => Some(spec.inputs.as_ref().map_or(environment::NO_INPUTS, |inputs| inputs.get()).into()),
        };
        if let Some(value) = value {
            variables.push((variable.name.clone(), value));
        }
    }
    variables.push((environment::JOB_ID.to_owned(), spec.job_id.to_string().into()));
    variables.push((environment::PROCESS_ID.to_owned(), spec.process_id.to_string().into()));
    if !init {
        if let Some(inputs) = &spec.inputs {
            variables.push((environment::INPUTS.to_owned(), inputs.get().into()));
        }
        if spec.inputs_in_file {
            variables.push((environment::INPUTS_FILE.to_owned(), dir.inputs().into_os_string()));
        }
        if let Some(nonce) = &spec.nonce {
            variables.push((environment::RESULT_NONCE.to_owned(), nonce.into()));
        }
    }
    Ok(variables)
}

/// The value of a key: a file's content, byte for byte.
fn value_of(dir: &RunDir, kind: &str, folder: &str, reference: &KeyReference) -> Result<Option<OsString>, String> {
    let KeyReference { name, key, optional } = reference;
    match fs::read(dir.data_dir().join(folder).join(name).join(key)) {
        Ok(bytes) if bytes.contains(&0) => Err(format!("key '{key}' of {kind} '{name}' contains a null character")),
        Ok(bytes) => Ok(Some(OsString::from_vec(bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound && *optional => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("key '{key}' of {kind} '{name}' is not there: {folder}/{name}/{key} of the data folder"))
        }
        Err(error) => Err(format!("key '{key}' of {kind} '{name}' cannot be read: {error}")),
    }
}

fn working_folder(dir: &RunDir, container: &Container) -> Result<PathBuf, String> {
    let Some(path) = &container.working_dir else { return Ok(dir.work()) };
    let folder = dir.work().join(spec::working_dir(path).ok_or("its working directory leads out of its folder")?);
    fs::create_dir_all(&folder).map_err(|error| format!("its working directory cannot be made: {error}"))?;
    Ok(folder)
}

/// Lets the container's volumes, and no other's, appear below the working directory: `/data` as `data`.
fn link_volumes(dir: &RunDir, spec: &Spec, container: &Container) -> Result<(), String> {
    for mount in spec.plan.all_containers().flat_map(|container| &container.mounts) {
        if let Some(link) = spec::mount_point(&mount.mount_path).map(|path| dir.work().join(path))
            && link.is_symlink()
        {
            fs::remove_file(&link)
                .map_err(|error| format!("the mount of another container cannot be undone: {error}"))?;
        }
    }
    for mount in &container.mounts {
        let failed = |error: &dyn std::fmt::Display| format!("volume '{}' cannot be mounted: {error}", mount.volume);
        let target = volume_folder(dir, spec, mount)?;
        let path = spec::mount_point(&mount.mount_path).ok_or_else(|| failed(&"its path leads out of the folder"))?;
        let link = dir.work().join(path);
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent).map_err(|error| failed(&error))?;
        }
        symlink(&target, &link).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Where the content of a mount is.
fn volume_folder(dir: &RunDir, spec: &Spec, mount: &Mount) -> Result<PathBuf, String> {
    let volume = spec.plan.volumes.iter().find(|volume| volume.name == mount.volume);
    let source = &volume.ok_or_else(|| format!("volume '{}' is not in the plan", mount.volume))?.source;
    let data = dir.data_dir();
    let own = dir.volumes().join(&mount.volume);
    let (folder, required) = match source {
        VolumeSource::EmptyDir { .. } => (own.clone(), false),
        VolumeSource::Claim { claim_name, .. } => (data.join("volumes").join(claim_name), true),
        VolumeSource::ConfigMap { name, optional } => (data.join("config-maps").join(name), !optional),
        VolumeSource::Secret { name, optional } => (data.join("secrets").join(name), !optional),
    };
    if required && !folder.exists() {
        let place = folder.strip_prefix(data).unwrap_or(&folder).display();
        return Err(format!("volume '{}' is not there: {place} of the data folder", mount.volume));
    }
    let folder = if folder.exists() { folder } else { own };
    run_dir::private_dir(&folder).map_err(|error| format!("volume '{}' cannot be made: {error}", mount.volume))?;
    let Some(sub_path) = &mount.sub_path else { return Ok(folder) };
    let inner = folder.join(
        spec::relative(sub_path).ok_or_else(|| format!("the sub path of volume '{}' leads out of it", mount.volume))?,
    );
    // As in a cluster: a sub path that is not there becomes a folder, in a volume that can be written.
    if !inner.exists() && Path::new(sub_path) != Path::new("") {
        fs::create_dir_all(&inner)
            .map_err(|error| format!("the sub path of volume '{}' cannot be made: {error}", mount.volume))?;
    }
    Ok(inner)
}
