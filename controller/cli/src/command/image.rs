//! `kapok image …`, except the import itself.

use kapok_proto::fabric::v1::{
    DeleteImageRequest, GetImageRequest, ListImagesRequest,
    image_service_client::ImageServiceClient as Images,
};

use super::import;
use crate::{
    args::image::Command,
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    human::plain,
    output::Out,
    view::image::Image,
};

/// Lists what could have been meant.
pub(super) const LOOK: &str = "kapok image ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Import(import) => import::run(client, out, import).await,
        Command::Ls => list(client, out).await,
        Command::Show { image } => {
            let doing = Doing::new(format!("show image {image}"), LOOK);
            let request = GetImageRequest { image };
            let found = client
                .read(&doing, async |channel| {
                    Images::new(channel).get_image(request.clone()).await
                })
                .await?;
            out.one(&Image::from(found), client.now())
        }
        Command::Rm { image, request } => {
            let doing = Doing::new(format!("remove image {image}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = DeleteImageRequest {
                image: image.clone(),
                request_id: request_id.clone(),
            };
            client
                .change(&doing, &request_id, async |channel| {
                    Images::new(channel).delete_image(request.clone()).await
                })
                .await?;
            if out.format().is_for_people() {
                out.line(&format!("{}: removed", plain(&image)))
            } else {
                Ok(())
            }
        }
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
    let doing = Doing::new("list images", LOOK);
    let images = pages(&doing, async |page_token| {
        let request = ListImagesRequest {
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Images::new(channel).list_images(request.clone()).await
            })
            .await?;
        Ok((page.images, page.next_page_token))
    })
    .await?;
    let images: Vec<_> = images.into_iter().map(Image::from).collect();
    out.list(&images, client.now())
}
