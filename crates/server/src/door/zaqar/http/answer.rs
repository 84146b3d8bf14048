//! Responses in Zaqar's manner.

use std::cell::Cell;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue, LOCATION, VARY};
use uuid::Uuid;

use crate::door::zaqar::json::write;
use crate::door::zaqar::problem::Problem;

pub(super) use crate::http::answer::{Answer, empty, json};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// A refusal. 406 has no body.
pub(super) fn problem(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = match status {
        StatusCode::NOT_ACCEPTABLE => empty(status),
        _ => json(status, problem.to_json()),
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

/// Adds where what the answer speaks of is. The path's parts are checked names and ids.
pub(super) fn located(mut answer: Answer, path: impl Into<Bytes>) -> Answer {
    if let Ok(path) = HeaderValue::from_maybe_shared(path.into()) {
        answer.headers_mut().insert(LOCATION, path);
    }
    answer
}

/// 200 for `OPTIONS`.
pub(super) fn options(allow: HeaderValue) -> Answer {
    let mut answer = empty(StatusCode::OK);
    answer.headers_mut().insert(hyper::header::ALLOW, allow);
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answer
}

/// Adds `x-openstack-request-id: req-…`, a random UUID.
///
/// A thread takes one random number from the system and counts from there: ids are unique, and need not be secret.
pub(super) fn name_request(answer: &mut Answer) {
    thread_local! {
        static NEXT: Cell<u128> = Cell::new(Uuid::new_v4().as_u128());
    }
    const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let number = NEXT.get().wrapping_add(STEP);
    NEXT.set(number);
    let high = u64::try_from(number >> 64).unwrap_or_default();
    let low = u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
    let mut text = Vec::with_capacity(40);
    text.extend_from_slice(b"req-");
    write::hex(&mut text, high >> 32, 8);
    text.push(b'-');
    write::hex(&mut text, high >> 16, 4);
    text.extend_from_slice(b"-4");
    write::hex(&mut text, high, 3);
    text.extend_from_slice(b"-a");
    write::hex(&mut text, low >> 48, 3);
    text.push(b'-');
    write::hex(&mut text, low, 12);
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids_and_differ() {
        let id = || {
            let mut answer = empty(StatusCode::OK);
            name_request(&mut answer);
            answer.headers()[REQUEST_ID].to_str().unwrap().to_owned()
        };
        let (first, second) = (id(), id());

        let uuid = Uuid::parse_str(first.strip_prefix("req-").unwrap()).unwrap();
        assert_eq!(uuid.get_version_num(), 4);
        assert_ne!(first, second);
    }
}
