//! The switches do what they say.

use tokio::time::timeout;

use super::*;

const ADDRESS: &str = "127.0.0.1:1";

/// An echo behind the address.
fn echo(network: &Network, owner: CancellationToken) {
    let mut incoming = Box::pin(network.listen(ADDRESS, owner));
    tokio::spawn(async move {
        while let Some(Ok(stream)) = incoming.next().await {
            tokio::spawn(async move {
                let (mut read, mut write) = split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
}

async fn connect(network: &Network) -> io::Result<DuplexStream> {
    let who = Identity::new(fabric(), Subject::User("ada".parse().unwrap()));
    network
        .connect(ADDRESS, who, CancellationToken::new())
        .await
}

async fn answers(stream: &mut DuplexStream) -> bool {
    let mut back = [0; 4];
    let talk = async {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut back).await
    };
    matches!(timeout(Duration::from_secs(5), talk).await, Ok(Ok(4)))
}

#[tokio::test(start_paused = true)]
async fn each_switch_does_what_it_says() {
    let network = Network::default();
    assert!(connect(&network).await.is_err(), "nobody listens");
    let owner = CancellationToken::new();
    echo(&network, owner.clone());
    let mut stream = connect(&network).await.unwrap();
    assert!(answers(&mut stream).await);
    for hang in [Network::hang, Network::hang_towards, Network::hang_back] {
        hang(&network, ADDRESS);
        assert!(!answers(&mut stream).await);
        assert!(
            timeout(Duration::from_secs(5), connect(&network))
                .await
                .is_err()
        );
        network.heal(ADDRESS);
        // What hung is delivered late.
        let mut late = [0; 4];
        stream.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"ping");
        assert!(answers(&mut stream).await);
    }
    network.cut(ADDRESS);
    assert!(!answers(&mut stream).await, "cut for good");
    let mut stream = connect(&network).await.unwrap();
    network.delay(ADDRESS, Duration::from_secs(1));
    let begun = Instant::now();
    assert!(answers(&mut stream).await);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    network.refuse(ADDRESS);
    assert!(!answers(&mut stream).await);
    assert!(connect(&network).await.is_err());
    network.heal(ADDRESS);
    let mut stream = connect(&network).await.unwrap();
    owner.cancel();
    assert!(!answers(&mut stream).await, "its process is dead");
    assert!(connect(&network).await.is_err());
}
