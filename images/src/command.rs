//! Runs other programs: apt, mmdebstrap and cargo.

use std::process::{Command, Stdio};

use crate::error::Error;

/// Runs the program to its end and returns its standard output; an error carries its standard error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => return Err(Error::Spawn { program, source }),
    };
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Program { program, status: output.status, stderr });
    }
    Ok(output.stdout)
}

/// Runs the program to its end; what it prints goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Program { program, status, stderr: "see above".to_owned() }),
        Err(source) => Err(Error::Spawn { program, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo broken pipes >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): broken pipes");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = run(&mut Command::new("kubevmm-no-such-program")).unwrap_err();
        assert!(error.to_string().starts_with("cannot run kubevmm-no-such-program: "), "{error}");
        assert!(error.to_string().contains("make deps"), "{error}");
    }
}
