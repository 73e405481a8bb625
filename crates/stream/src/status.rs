//! How a command ended, as clients expect to read it on the error channel.
//!
//! From protocol version 4 on the channel carries a `metav1.Status` in JSON, whose cause
//! `ExitCode` bears the code; before that it carries the message alone, and nothing for success
//! (upstream: `v4WriteStatusFunc`, `v1WriteStatusFunc`).

use serde_json::json;

/// How a command in a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with code 0, or an attached session ended.
    Success,
    /// It exited with this code, or was killed by a signal (128 + its number).
    Code(i32),
    /// It could not be run; the text says why.
    Failed(String),
}

impl ExitStatus {
    /// From an exit code as `wait` gives it.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        if code == 0 { Self::Success } else { Self::Code(code) }
    }

    /// The `metav1.Status` of protocol version 4 and later, as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Code(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }

    /// The plain text of protocol versions before 4; empty for success.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Code(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Self::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause_of_the_status() {
        let status: serde_json::Value =
            serde_json::from_slice(&ExitStatus::from_code(3).to_json()).unwrap();
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
    }

    #[test]
    fn success_says_so_in_json_and_nothing_in_plain_text() {
        let status: serde_json::Value =
            serde_json::from_slice(&ExitStatus::from_code(0).to_json()).unwrap();
        assert_eq!(status["status"], "Success");
        assert_eq!(ExitStatus::Success.message(), "");
    }
}
