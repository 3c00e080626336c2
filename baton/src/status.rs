//! `baton status`: what a cluster serves, and with how many nodes.

use baton_proto::v1::Model;

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
    Ok(())
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
