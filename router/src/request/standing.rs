//! What a request is to the others: its class, whose it is, and how fast it should be.

use std::{sync::Arc, time::Duration};

use baton_policy::{Class, Tenant, TenantId};
use baton_types::Slo;

use crate::{config::RouterConfig, error::RequestError};

/// A class as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedClass {
    /// Where it stands.
    pub(crate) param: &'static str,
    pub(crate) name: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) class: Class,
    /// The class's.
    pub(crate) name: Arc<str>,
    pub(crate) tenant: Tenant,
    /// The request's own objectives, or else its class's.
    pub(crate) slo: Slo,
    pub(crate) refuse_late: bool,
    /// The class's time to first token, for each token of the prompt.
    per_prompt_token: Option<Duration>,
}

impl Standing {
    /// `own` are the objectives that the request named itself.
    pub(crate) fn new(
        config: &RouterConfig,
        named: &NamedClass,
        tenant: TenantId,
        own: Slo,
    ) -> Result<Self, RequestError> {
        let Some((name, class, holds)) = config.classes.named(&named.name) else {
            let given: String = named.name.chars().take(64).collect();
            let known: Vec<&str> = config.classes.names().collect();
            let message = format!(
                "Invalid '{}': there is no class {given:?} here. Send one of {}, or none for \
                 the default.",
                named.param,
                known.join(", ")
            );
            return Err(RequestError::invalid(named.param, "invalid_value", message));
        };
        let share = config.tenant_shares.get(&*tenant.0).copied().unwrap_or(1.0);
        let per_prompt_token = holds.ttft_per_prompt_token.map(|span| span.0);
        let ttft = holds.ttft.map(|span| span.0).or(per_prompt_token.map(|_| Duration::ZERO));
        Ok(Standing {
            class,
            name: name.into(),
            tenant: Tenant { id: tenant, share },
            slo: Slo { ttft: own.ttft.or(ttft), tpot: own.tpot.or(holds.tpot.map(|span| span.0)) },
            refuse_late: holds.refuse_late,
            per_prompt_token: per_prompt_token.filter(|_| own.ttft.is_none()),
        })
    }

    /// The same for a prompt of so many tokens.
    pub(crate) fn of_prompt(&self, tokens: usize) -> Self {
        let more = self.per_prompt_token.unwrap_or_default();
        let more = more.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX));
        let ttft = self.slo.ttft.map(|ttft| ttft.saturating_add(more));
        Standing { slo: Slo { ttft, ..self.slo }, per_prompt_token: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouterFlags;

    const MS: Duration = Duration::from_millis(1);

    fn standing(class: &str, own: Slo) -> Result<Standing, RequestError> {
        let set = [
            "classes.gold={priority=200, ttft=\"100ms\", ttft_per_prompt_token=\"1ms\", \
             tpot=\"40ms\", refuse_late=false}",
            "classes.default.tpot=\"80ms\"",
            "tenant_shares.acme=3.0",
        ];
        let set = set.map(str::to_owned).to_vec();
        let config = RouterFlags { set, ..RouterFlags::default() }.load([]).unwrap();
        let named = NamedClass { param: "service_tier", name: class.to_owned() };
        Standing::new(&config, &named, TenantId("acme".into()), own)
    }

    #[test]
    fn what_a_request_says_goes_before_what_its_class_says() {
        let check =
            |class, own: (Option<u32>, Option<u32>), expected: (Option<u32>, Option<u32>)| {
                let slo = |(ttft, tpot): (Option<u32>, Option<u32>)| Slo {
                    ttft: ttft.map(|ms| ms * MS),
                    tpot: tpot.map(|ms| ms * MS),
                };
                let standing = standing(class, slo(own)).unwrap().of_prompt(50);
                assert_eq!(standing.slo, slo(expected), "{class} {own:?}");
            };
        check("gold", (None, None), (Some(150), Some(40)));
        check("gold", (Some(7), None), (Some(7), Some(40)));
        check("gold", (None, Some(9)), (Some(150), Some(9)));
        check("default", (None, None), (None, Some(80)));
        check("auto", (Some(1), None), (Some(1), Some(80)));
        check("batch", (None, None), (None, None));
    }

    #[test]
    fn a_class_that_is_not_there_is_refused_with_those_that_are() {
        let gold = standing("gold", Slo::default()).unwrap();
        assert_eq!((gold.class.priority, gold.refuse_late, gold.tenant.share), (200, false, 3.0));
        let error = standing("Gold", Slo::default()).unwrap_err();
        assert_eq!(error.param(), Some("service_tier"));
        let text = error.to_string();
        for part in ["\"Gold\"", "batch, default, gold"] {
            assert!(text.contains(part), "{part} is not in {text:?}");
        }
    }
}
