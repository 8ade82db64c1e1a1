//! Inside a guest: through its agent, or by ssh from its host.

use anyhow::{Context, Result, anyhow};

use crate::api::Json;
use crate::cluster::Cluster;
use crate::host::Host;

/// One boot of a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// `/proc/sys/kernel/random/boot_id`
    pub id: String,
    /// Seconds since the boot.
    pub uptime: f64,
}

/// Asks the guest agent for the boot.
///
/// # Errors
/// When the agent does not answer.
pub fn boot(host: &Host, domain: &str) -> Result<Boot> {
    let id = read_file(host, domain, "/proc/sys/kernel/random/boot_id")?;
    let uptime = read_file(host, domain, "/proc/uptime")?;
    let uptime = uptime.split_whitespace().next().unwrap_or_default();
    Ok(Boot { id: id.trim().to_owned(), uptime: uptime.parse().with_context(|| format!("uptime {uptime:?}"))? })
}

/// A file of the guest, by its agent.
///
/// # Errors
/// When the agent does not answer, or there is no such file.
pub fn read_file(host: &Host, domain: &str, path: &str) -> Result<String> {
    let open = agent(host, domain, &format!(r#"{{"execute":"guest-file-open","arguments":{{"path":"{path}"}}}}"#))?;
    let handle = open.to_string();
    let arguments = format!(r#""arguments":{{"handle":{handle}}}"#);
    let read = agent(host, domain, &format!(r#"{{"execute":"guest-file-read",{arguments}}}"#));
    agent(host, domain, &format!(r#"{{"execute":"guest-file-close",{arguments}}}"#))?;
    let text = read?["buf-b64"].as_str().unwrap_or_default().to_owned();
    host.sh(&format!("echo {text} | base64 -d"))
}

/// Starts a shell script in the guest without waiting for its end.
///
/// # Errors
/// When the agent does not answer.
pub fn start_script(host: &Host, domain: &str, script: &str) -> Result<()> {
    let command = serde_json::json!({
        "execute": "guest-exec",
        "arguments": {"path": "/bin/sh", "arg": ["-c", script], "capture-output": false},
    });
    agent(host, domain, &command.to_string()).map(drop)
}

fn agent(host: &Host, domain: &str, command: &str) -> Result<Json> {
    let answer = host.virsh(["qemu-agent-command", "--timeout", "5", domain, command])?;
    let answer: Json = serde_json::from_str(answer.trim()).with_context(|| format!("the agent answered {answer}"))?;
    answer.get("return").cloned().ok_or_else(|| anyhow!("the agent answered {answer}"))
}

/// Runs a command in the guest by ssh from its host; its standard output.
///
/// # Errors
/// When ssh fails, or the command.
pub fn ssh(cluster: &Cluster, host: &Host, address: &str, command: &str) -> Result<String> {
    let key = &cluster.ssh_private_key;
    host.sh(&format!(
        "umask 077; k=/run/story-key; [ -e $k ] || {{ cat >$k.$$ <<'KEY' && mv $k.$$ $k\n{key}KEY\n}}\n\
         exec ssh -i $k -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
         -o BatchMode=yes -o ConnectTimeout=5 root@{address} '{command}' </dev/null"
    ))
}
