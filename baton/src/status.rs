//! `baton status`: what a cluster serves, with how many nodes, and how many there should be.

use std::fmt;

use baton_proto::v1::{Advice, Model};

use crate::{
    client::{Client, ClientError},
    table::Table,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Where the cluster's API listens.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
}

pub(crate) async fn status(args: StatusArgs) -> Result<(), ClientError> {
    let mut client = Client::connect(&args.url).await?;
    let models = client.models().await?;
    if models.is_empty() {
        return Err(ClientError::NoModel { url: args.url });
    }
    print!("{}", models_table(&models));
    for advice in client.advice().await? {
        print!("\n{}", Advised(&advice));
    }
    Ok(())
}

/// Advice as people read it.
struct Advised<'a>(&'a Advice);

impl fmt::Display for Advised<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Advice { model, formula, prefill, decode, role_switch } = self.0;
        writeln!(f, "  {model} should have ({formula})")?;
        for (role, advice) in [("prefill", prefill), ("decode", decode)] {
            let Some(advice) = advice else { continue };
            let (nodes, recommended) = (advice.nodes, advice.recommended);
            let change = match recommended.cmp(&nodes) {
                std::cmp::Ordering::Less => format!("{} fewer", nodes - recommended),
                std::cmp::Ordering::Equal => "as it is".to_owned(),
                std::cmp::Ordering::Greater => format!("{} more", recommended - nodes),
            };
            writeln!(f, "  {recommended:>4} {role:<7} ({change}): {}", advice.reason)?;
        }
        if !role_switch.is_empty() {
            writeln!(f, "       {role_switch}")?;
        }
        Ok(())
    }
}

fn models_table(models: &[Model]) -> Table {
    let mut table = Table::new(["model", "prefill", "decode", "context", "numerics"]);
    for model in models {
        table.row([
            model.id.clone(),
            model.prefill_nodes.to_string(),
            model.decode_nodes.to_string(),
            model.max_context.to_string(),
            model.numerics_id.clone(),
        ]);
    }
    table
}
