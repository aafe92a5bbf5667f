//! What the ends compare about methods at registration.

use super::pb;
use crate::spec::{MethodKind, MethodSpec};

/// A table of methods as it stands on the wire.
pub(crate) fn method_table(methods: &[MethodSpec]) -> Vec<pb::Method> {
    methods.iter().map(wire).collect()
}

fn wire(method: &MethodSpec) -> pb::Method {
    const ONEWAY: u32 = 1;
    const IDEMPOTENT: u32 = 2;
    const SHARE: u32 = 4;
    const ONE: u32 = 8;
    const ANSWERED: u32 = 16;
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let (kind, flags) = match method.kind {
        MethodKind::Subscribe { one, answered, quiet: _ } => {
            (pb::Kind::Subscribe, flag(one, ONE) | flag(answered, ANSWERED))
        }
        MethodKind::Publish { .. } => (pb::Kind::Publish, 0),
        MethodKind::Unpublish { .. } => (pb::Kind::Unpublish, 0),
        MethodKind::Invoke { oneway, idempotent, share } => (
            pb::Kind::Invoke,
            flag(oneway, ONEWAY) | flag(idempotent, IDEMPOTENT) | flag(share, SHARE),
        ),
    };
    pb::Method {
        name: method.name.to_owned(),
        kind: kind.into(),
        args: method.args,
        flags,
        version: method.version,
    }
}

/// Where the methods of a follower's table are in the leader's.
#[derive(Debug, Clone)]
pub(crate) struct MethodMap(Vec<Result<usize, String>>);

impl MethodMap {
    /// Compares a follower's table with the leader's.
    pub(crate) fn compare(leader: &[MethodSpec], follower: &[pb::Method]) -> Self {
        Self(follower.iter().map(|theirs| find(leader, theirs)).collect())
    }

    /// The index in the leader's table.
    ///
    /// # Errors
    ///
    /// Why this method can't be used.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Result<usize, String> {
        self.0
            .get(index as usize)
            .cloned()
            .unwrap_or_else(|| Err(format!("method {index} is not in the table")))
    }

    /// For each method of the follower why it can't be used; empty where it can.
    pub(crate) fn mismatches(&self) -> Vec<String> {
        self.0.iter().map(|entry| entry.as_ref().err().cloned().unwrap_or_default()).collect()
    }
}

fn find(leader: &[MethodSpec], theirs: &pb::Method) -> Result<usize, String> {
    let Some(index) = leader.iter().position(|ours| ours.name == theirs.name) else {
        return Err("the leader has no such method".to_owned());
    };
    let ours = wire(&leader[index]);
    let differs = if ours.kind != theirs.kind {
        "its kind"
    } else if ours.args != theirs.args {
        "its number of arguments"
    } else if ours.flags != theirs.flags {
        "its flags"
    } else if ours.version != theirs.version {
        "its version"
    } else {
        return Ok(index);
    };
    Err(format!("{differs} differs between the leader and this process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoke(name: &'static str) -> MethodSpec {
        MethodSpec {
            name,
            kind: MethodKind::Invoke { oneway: false, idempotent: false, share: false },
            args: 1,
            version: 0,
            timeout: None,
        }
    }

    #[test]
    fn methods_are_found_by_name_wherever_they_stand() {
        let follower = method_table(&[invoke("b"), invoke("a")]);
        let map = MethodMap::compare(&[invoke("a"), invoke("b")], &follower);
        assert_eq!(map.get(0), Ok(1));
        assert_eq!(map.get(1), Ok(0));
        assert!(map.get(2).is_err());
    }

    #[test]
    fn each_difference_is_named_and_concerns_that_method_alone() {
        let leader = [invoke("same"), invoke("args"), invoke("flags"), invoke("version")];
        let follower = method_table(&[
            invoke("same"),
            MethodSpec { args: 2, ..invoke("args") },
            MethodSpec {
                kind: MethodKind::Invoke { oneway: false, idempotent: true, share: false },
                ..invoke("flags")
            },
            MethodSpec { version: 2, ..invoke("version") },
            invoke("gone"),
        ]);
        let told = MethodMap::compare(&leader, &follower).mismatches();
        assert_eq!(told[0], "");
        for (text, part) in told[1..].iter().zip(["arguments", "flags", "version", "no such"]) {
            assert!(text.contains(part), "{text}");
        }
    }
}
