//! The error codes `NJ-nnnn`: the first digit is the exit code, except for 123. Each has a page in `cli/book/`, which is part
//! of the program, so that `nightjar explain` works without a network.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal),+ $(,)?) => {
        /// A code that an error carries.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Code { $($(#[doc = $doc])+ $name = $number),+ }

        impl Code {
            /// All codes, in order.
            pub(crate) const ALL: &'static [Code] = &[$(Code::$name),+];

            /// The page of the error book, Markdown.
            pub(crate) fn page(self) -> &'static str {
                match self {
                    $(Code::$name => include_str!(concat!("../book/NJ-", stringify!($number), ".md"))),+
                }
            }
        }
    };
}

codes! {
    /// A file or the terminal failed.
    File = 1001,
    /// The relay says that the event is wrong.
    Invalid = 1002,
    /// The relay broke the protocol or said something unexpected.
    Protocol = 1003,
    /// The fleet did not start or stopped by itself.
    FleetFailed = 1004,
    /// Another program runs this state folder.
    FleetLocked = 1005,
    /// The API server answered with an error.
    ApiFailed = 1006,
    /// Some of the lines on stdin failed.
    SomeLines = 1230,
    /// The command line cannot be read.
    Usage = 2001,
    /// A value is not what it should be.
    BadValue = 2002,
    /// The fleet file is refused.
    BadFleet = 2003,
    /// stdin would be read twice.
    StdinTwice = 2004,
    /// No relay is known.
    NoRelay = 2005,
    /// A question cannot be asked without a terminal.
    NoTerminal = 2006,
    /// No Kubernetes cluster is configured.
    NoKubeconfig = 2007,
    /// Several fleets could be meant.
    WhichFleet = 2008,
    /// The change is refused.
    ChangeRefused = 2009,
    /// No relay could be reached.
    Unreachable = 3001,
    /// The relay did not answer in time.
    TooLate = 3002,
    /// The API server cannot be reached.
    ApiUnreachable = 3003,
    /// The API server did not answer in time.
    ApiTooLate = 3004,
    /// The relay does not accept who we are.
    AuthFailed = 4001,
    /// The relay does not allow this.
    NotAllowed = 4002,
    /// A demo identity stays on this machine.
    NotLoopback = 4003,
    /// The API server does not know who we are.
    ApiUnauthorized = 4004,
    /// The API server does not allow this.
    ApiForbidden = 4005,
    /// The message was not durable in time.
    NotDurable = 5001,
    /// The fleet is not healthy.
    Unhealthy = 6001,
    /// The hello did not arrive.
    NoHello = 6002,
    /// Checks failed.
    ChecksFailed = 6003,
    /// A rollout does not go on.
    RolloutStuck = 6004,
    /// The wait ended before what was waited for.
    StillWaiting = 6005,
    /// Check: Kubernetes is too old.
    CheckVersion = 6101,
    /// Check: this account may not install.
    CheckInstallRights = 6102,
    /// Check: no StorageClass for the disks.
    CheckStorageClass = 6103,
    /// Check: no nodes for a region.
    CheckNodes = 6104,
    /// Check: the definition is missing or another one.
    CheckDefinition = 6105,
    /// Check: the operator does not run.
    CheckOperator = 6106,
    /// Check: no operator leads.
    CheckLease = 6107,
    /// Check: the operator has not taken the last change.
    CheckObserved = 6108,
    /// Check: conditions of the fleet.
    CheckConditions = 6109,
    /// Check: pods.
    CheckPods = 6110,
    /// Check: disks.
    CheckClaims = 6111,
    /// Check: Services without pods behind them.
    CheckEndpoints = 6112,
    /// Check: the keys.
    CheckKeys = 6113,
    /// Check: a region does not answer.
    CheckRegion = 6114,
    /// The relay asks to slow down.
    RateLimited = 7001,
    /// The recipient has no relays for private messages.
    NoInbox = 8001,
    /// There is no identity of that name.
    NoIdentity = 8002,
    /// No fleet runs here.
    NoFleet = 8003,
    /// There is no such error code.
    NoSuchPage = 8004,
    /// There is no such profile, list or region.
    NotPublished = 8005,
    /// The cluster does not know RelayClusters.
    NoCrd = 8006,
    /// There is no such fleet in the cluster.
    NoSuchFleet = 8007,
    /// There is no such runbook page.
    NoSuchRunbook = 8008,
    /// The passphrase does not open the key.
    Passphrase = 9001,
    /// Others may read the key file.
    OpenToOthers = 9002,
    /// A key of that name exists.
    KeyExists = 9003,
    /// That is no secret key.
    NotAKey = 9004,
    /// The key file is damaged or holds an open key.
    BadKeyFile = 9005,
    /// A message cannot be sealed.
    CannotSeal = 9006,
}

impl Code {
    /// The number, without `NJ-`.
    pub(crate) fn number(self) -> u16 {
        self as u16
    }

    /// The exit code of the program.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Code::SomeLines => 123,
            code => u8::try_from(code.number() / 1000).unwrap_or(1),
        }
    }

    /// The first line of the page, without the code.
    pub(crate) fn title(self) -> &'static str {
        let line = self.page().lines().next().unwrap_or_default();
        line.split_once(": ").map_or(line, |(_, title)| title)
    }

    /// Reads `NJ-3001`, `nj-3001` or `3001`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_uppercase();
        let number: u16 = text.strip_prefix("NJ-").unwrap_or(&text).parse().ok()?;
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.number() == number)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NJ-{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_page_with_its_sections() {
        for code in Code::ALL {
            let page = code.page();
            assert!(
                page.starts_with(&format!("# {code}: ")),
                "{code}: first line"
            );
            for section in ["\n## Meaning\n", "\n## What to do\n"] {
                assert!(page.contains(section), "{code}: no {section:?}");
            }
            assert!(
                page.contains(&format!("Exit code {}.", code.exit())),
                "{code}: exit code"
            );
        }
    }

    #[test]
    fn each_page_has_a_code() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/book")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let code = name.strip_suffix(".md").and_then(Code::parse);
            assert!(
                code.is_some_and(|code| format!("{code}.md") == name),
                "{name}"
            );
        }
    }

    #[test]
    fn codes_are_read_in_any_case_and_without_prefix() {
        for text in ["NJ-3001", "nj-3001", "3001", " 3001 "] {
            assert_eq!(Code::parse(text), Some(Code::Unreachable));
        }
        assert_eq!(Code::parse("NJ-9999"), None);
    }

    #[test]
    fn exit_code_is_the_first_digit() {
        assert_eq!((Code::NotDurable.exit(), Code::SomeLines.exit()), (5, 123));
    }
}
