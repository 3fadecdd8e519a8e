//! Who gets a copy: one for each fleet or lone relay. Relays that show the same fleet in NIP-11 count as one, with failover
//! among them. Pure grouping here; [`crate::client`] sends.

use std::time::Duration;

use nostr::types::RelayUrl;

use crate::connection::ConnectionError;
use crate::frame::Prefix;
use crate::info::RelayInfo;

/// A relay and what it says of itself, if it could be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Address.
    pub url: RelayUrl,
    /// Its NIP-11 document.
    pub info: Option<RelayInfo>,
}

/// Doors to one place: the relays of one fleet, or a lone relay. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The fleet, if they are one.
    pub fleet: Option<String>,
    /// The doors in the order in which they are tried.
    pub doors: Vec<Door>,
}

/// Groups doors by fleet, keeping their order. `preferred` doors come first in a group of their own fleet, and are added to
/// it when they were missing; they make no group of their own.
pub fn group(doors: Vec<Door>, preferred: &[Door]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for door in doors {
        let fleet = door
            .info
            .as_ref()
            .and_then(RelayInfo::fleet)
            .map(str::to_owned);
        match groups
            .iter_mut()
            .find(|group| fleet.is_some() && group.fleet == fleet)
        {
            Some(group) => group.doors.push(door),
            None => groups.push(Group {
                fleet,
                doors: vec![door],
            }),
        }
    }
    for group in &mut groups {
        for door in preferred.iter().rev() {
            let same_fleet = group.fleet.is_some()
                && door.info.as_ref().and_then(RelayInfo::fleet) == group.fleet.as_deref();
            let known = group.doors.iter().position(|known| known.url == door.url);
            if let Some(at) = known {
                let door = group.doors.remove(at);
                group.doors.insert(0, door);
            } else if same_fleet {
                group.doors.insert(0, door.clone());
            }
        }
    }
    groups
}

/// Whether another relay of the same fleet may answer better. What is wrong with the event itself stays wrong.
pub fn worth_another_door(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::Refused { prefix, .. } => !matches!(prefix, Prefix::Invalid | Prefix::Pow),
        ConnectionError::Identity(_) | ConnectionError::NotLoopback => false,
        _ => true,
    }
}

/// What became of one copy.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The group it was for.
    pub group: Group,
    /// The door that took it.
    pub taken: Option<Taken>,
    /// Doors that were tried before, or in vain, and why not.
    pub failed: Vec<(RelayUrl, ConnectionError)>,
}

/// A door took a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The door.
    pub url: RelayUrl,
    /// Its region, if it names one.
    pub region: Option<String>,
    /// From sending to the OK.
    pub took: Duration,
    /// Whether it had the event already.
    pub duplicate: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::FleetInfo;

    fn door(port: u16, fleet: Option<&str>) -> Door {
        let nightjar = fleet.map(|fleet| FleetInfo {
            fleet: fleet.into(),
            fleet_name: None,
            region: None,
            relay: None,
            durability: None,
        });
        Door {
            url: RelayUrl::parse(&format!("ws://127.0.0.1:{port}")).unwrap(),
            info: Some(RelayInfo {
                nightjar,
                ..RelayInfo::default()
            }),
        }
    }

    fn ports(group: &Group) -> Vec<String> {
        group
            .doors
            .iter()
            .map(|door| door.url.as_str().replace("ws://127.0.0.1:", ""))
            .collect()
    }

    #[test]
    fn relays_of_one_fleet_are_one_group_and_unknown_ones_stand_alone() {
        let unknown = Door {
            info: None,
            ..door(5, None)
        };
        let doors = vec![
            door(1, Some("f")),
            door(2, None),
            door(3, Some("f")),
            door(4, None),
            unknown,
        ];
        let groups = group(doors, &[]);
        let all: Vec<_> = groups.iter().map(ports).collect();
        assert_eq!(all, [vec!["1", "3"], vec!["2"], vec!["4"], vec!["5"]]);
    }

    #[test]
    fn preferred_door_goes_first_only_where_it_belongs() {
        let doors = vec![door(1, Some("f")), door(2, Some("f")), door(3, Some("g"))];
        let groups = group(
            doors,
            &[door(2, Some("f")), door(9, Some("f")), door(8, None)],
        );
        let all: Vec<_> = groups.iter().map(ports).collect();
        assert_eq!(all, [vec!["2", "9", "1"], vec!["3"]]);
    }

    #[test]
    fn wrong_event_is_not_offered_to_another_door() {
        let refused = |message: &str| ConnectionError::Refused {
            prefix: Prefix::of(message),
            message: message.into(),
        };
        assert!(!worth_another_door(&refused("invalid: bad signature")));
        assert!(worth_another_door(&refused(
            "error: not durable in time, send it again"
        )));
        assert!(worth_another_door(&refused("rate-limited: slow down")));
        assert!(worth_another_door(&ConnectionError::Unreachable(
            "refused".into()
        )));
    }
}
