//! What a link must look like so that the disk behind it can be reached.

use std::net::Ipv4Addr;

use super::link::{Address, Error, Links, Route};

/// The address of a link, and the routes through it. The link itself is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The address; it lasts as long as the link.
    pub address: Address,
    /// Routes, those to routers on the link first: others may need them.
    pub routes: Vec<Route>,
}

impl Setting {
    /// Makes the link look like this. Doing it twice is harmless, and disturbs nobody who uses it.
    ///
    /// An error means that the address is not there. One wrong route must not cost the disk, which
    /// may be on this very link: those that could not be set are returned.
    pub fn put(&self, links: &mut Links) -> Result<Vec<Error>, Error> {
        links.set_up(self.address.link_index)?;
        links.add_address(&self.address)?;
        Ok(self.routes.iter().filter_map(|route| links.add_route(route).err()).collect())
    }

    /// Whether the disk may depend on this route.
    pub fn has(&self, route: &Route) -> bool {
        *route == self.subnet() || self.routes.iter().any(|ours| ours == route)
    }

    /// The route to the machines on the link, which the kernel makes together with the address.
    pub fn subnet(&self) -> Route {
        let Address { link_index, address, prefix_len, .. } = self.address;
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        Route {
            link_index,
            destination: Ipv4Addr::from_bits(address.to_bits() & !host_bits),
            prefix_len,
            router: None,
            source: Some(address),
            metric: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_that_matter_are_known() {
        let router = Route {
            link_index: 2,
            destination: Ipv4Addr::UNSPECIFIED,
            prefix_len: 0,
            router: Some([192, 0, 2, 1].into()),
            source: None,
            metric: None,
        };
        let address = Address {
            link_index: 2,
            address: [192, 0, 2, 77].into(),
            prefix_len: 26,
            broadcast: [192, 0, 2, 127].into(),
        };
        let setting = Setting { address, routes: vec![router] };
        let subnet = setting.subnet();
        assert_eq!((subnet.destination, subnet.prefix_len), ([192, 0, 2, 64].into(), 26));
        assert!(setting.has(&router) && setting.has(&subnet));
        assert!(!setting.has(&Route { router: Some([192, 0, 2, 2].into()), ..router }));
        assert!(!setting.has(&Route { metric: Some(100), ..router }), "that of somebody else");
        let single = Address { prefix_len: 32, ..address };
        let subnet = Setting { address: single, routes: Vec::new() }.subnet();
        assert_eq!(subnet.destination, address.address);
    }
}
