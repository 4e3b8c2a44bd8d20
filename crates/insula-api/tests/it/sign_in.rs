//! People: invited, signed in, known again, kept out.

use insula_kit::clock::Clock;
use insula_model::tenancy::Role;
use serde_json::json;

use crate::stage::{PASSWORD, Stage, With};

async fn attempt(stage: &Stage, email: &str, password: &str) -> crate::stage::Answer {
    let body = json!({ "email": email, "password": password });
    stage.send("POST", "/v1/sign-in", With::default().json(&body)).await
}

fn later(stage: &Stage, seconds: i64) {
    stage.clock.set_ms(stage.clock.now_ms() + seconds * 1_000);
}

#[tokio::test]
async fn a_person_is_invited_signs_in_and_out() {
    let stage = Stage::open().await;
    stage.org("acme").await;
    let token = stage.person("acme", Role::Developer).await;
    let who = stage.get(&token, "/v1/whoami").await.ok();
    assert_eq!(who["email"], "developer@acme.example");
    assert_eq!(who["operator"], false);
    assert_eq!(who["orgs"][0]["name"], "acme");
    assert_eq!(who["orgs"][0]["role"], "developer");
    let orgs = stage.get(&token, "/v1/orgs").await.ok();
    assert_eq!(orgs["items"].as_array().unwrap().len(), 1);
    assert_eq!(stage.send("POST", "/v1/sign-out", With::token(&token)).await.status, 204);
    stage.get(&token, "/v1/whoami").await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_stranger_and_a_wrong_password_look_the_same() {
    let stage = Stage::open().await;
    stage.invite("default", "ann@example.org", Role::Viewer).await;
    let strip = |answer: crate::stage::Answer| {
        let mut problem = answer.refused(401, "sign_in_failed");
        problem["request_id"].take();
        problem
    };
    let wrong = strip(attempt(&stage, "ann@example.org", "wrong horse battery").await);
    let stranger = strip(attempt(&stage, "bob@example.org", "wrong horse battery").await);
    assert_eq!(wrong, stranger);
}

#[tokio::test]
async fn guessing_ends_after_a_few_attempts_and_the_pause_is_told() {
    let stage = Stage::open().await;
    stage.invite("default", "ann@example.org", Role::Viewer).await;
    for _ in 0..5 {
        attempt(&stage, "Ann@example.org", "wrong").await.refused(401, "sign_in_failed");
    }
    let refused = attempt(&stage, "ann@example.org", PASSWORD).await;
    refused.refused(429, "too_many_sign_ins");
    assert_eq!(refused.header("retry-after"), Some("30"));
    // Somebody else is not locked out by it, and nobody is for ever.
    attempt(&stage, "bob@example.org", "wrong").await.refused(401, "sign_in_failed");
    later(&stage, 30);
    assert_eq!(attempt(&stage, "ANN@example.org", PASSWORD).await.status, 201);
}

#[tokio::test]
async fn one_stranger_cannot_keep_a_person_out() {
    let stage = Stage::open().await;
    stage.invite("default", "ann@example.org", Role::Viewer).await;
    let from = async |last: u8, password: &str| {
        let body = json!({ "email": "ann@example.org", "password": password });
        let with = With { from: Some([127, 0, 0, last].into()), ..With::default() };
        stage.send("POST", "/v1/sign-in", with.json(&body)).await
    };
    for _ in 0..60 {
        from(2, "wrong").await;
    }
    from(2, "wrong").await.refused(429, "too_many_sign_ins");
    assert_eq!(from(3, PASSWORD).await.status, 201);
}

#[tokio::test]
async fn a_session_ends_with_its_time_and_with_a_new_password() {
    let stage = Stage::open().await;
    stage.invite("default", "ann@example.org", Role::Viewer).await;
    let old = stage.sign_in("ann@example.org").await;
    let wrong = json!({ "current": "wrong horse battery", "new": "another long password" });
    stage.put(&old, "/v1/password", &wrong).await.refused(401, "sign_in_failed");
    let weak = json!({ "current": PASSWORD, "new": "short" });
    stage.put(&old, "/v1/password", &weak).await.refused(422, "weak_password");
    let change = json!({ "current": PASSWORD, "new": "another long password" });
    assert_eq!(stage.put(&old, "/v1/password", &change).await.status, 204);
    stage.get(&old, "/v1/whoami").await.refused(401, "unauthenticated");
    later(&stage, 600);
    attempt(&stage, "ann@example.org", PASSWORD).await.refused(401, "sign_in_failed");
    let signed = attempt(&stage, "ann@example.org", "another long password").await.ok();
    let token = signed["token"].as_str().unwrap();
    later(&stage, 30 * 24 * 3_600 - 10);
    stage.get(token, "/v1/whoami").await.ok();
    later(&stage, 11);
    stage.get(token, "/v1/whoami").await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn an_invitation_is_for_once_and_for_a_week() {
    let stage = Stage::open().await;
    let invite = async |email: &str| {
        let body = json!({ "email": email, "role": "viewer" });
        let made = stage.make("/v1/orgs/default/invitations", &body).await;
        made["secret"].as_str().unwrap().to_owned()
    };
    let accept = async |secret: &str, password: &str| {
        let body = json!({ "secret": secret, "password": password });
        stage.send("POST", "/v1/invitations/accept", With::default().json(&body)).await
    };
    let secret = invite("ann@example.org").await;
    accept(&secret, "short").await.refused(422, "weak_password");
    assert_eq!(accept(&secret, PASSWORD).await.status, 201);
    accept(&secret, PASSWORD).await.refused(410, "invitation_gone");
    accept("insi_nonsense", PASSWORD).await.refused(410, "invitation_gone");
    let late = invite("bob@example.org").await;
    later(&stage, 7 * 24 * 3_600 + 1);
    accept(&late, PASSWORD).await.refused(410, "invitation_gone");
    // Who is a user already shows that, and becomes a member of another org.
    stage.org("acme").await;
    let body = json!({ "email": "ann@example.org", "role": "admin" });
    let made = stage.make("/v1/orgs/acme/invitations", &body).await;
    let secret = made["secret"].as_str().unwrap();
    accept(secret, "somebody else's password").await.refused(401, "sign_in_failed");
    assert_eq!(accept(secret, PASSWORD).await.status, 201);
}

#[tokio::test]
async fn credentials_that_are_none_are_refused_and_guessing_tokens_is_slowed() {
    let stage = Stage::open().await;
    let (whole, last) = stage.operator.split_at(stage.operator.len() - 1);
    let typo = format!("{whole}{}", if last == "x" { "y" } else { "x" });
    for wrong in ["", "nonsense", "inso_", &typo] {
        stage.get(wrong, "/v1/whoami").await.refused(401, "unauthenticated");
    }
    let basic = With::default().header("authorization", "Basic YTpi");
    let answer = stage.send("GET", "/v1/whoami", basic).await;
    answer.refused(401, "unauthenticated");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    // A token that was nobody's, over and over.
    let mut status = 401;
    for _ in 0..300 {
        status = stage.get(&typo, "/v1/whoami").await.status;
        if status != 401 {
            break;
        }
    }
    assert_eq!(status, 429);
    stage.get(&stage.operator, "/v1/whoami").await.ok();
}

#[tokio::test]
async fn a_second_org_is_refused_in_development_mode() {
    let stage = Stage::open_with(|config| config.development = true).await;
    let body = json!({ "name": "acme" });
    stage.post(&stage.operator, "/v1/orgs", &body).await.refused(403, "second_org");
}

#[tokio::test]
async fn one_credential_cannot_ask_without_end() {
    let stage = Stage::open().await;
    let robot = stage.machine("default", Role::Viewer).await;
    let mut refused = None;
    for _ in 0..1_100 {
        let answer = stage.get(&robot, "/healthz").await;
        // A route for everybody does not mind; one that needs the credential does.
        assert_eq!(answer.status, 200);
        let answer = stage.get(&robot, "/v1/whoami").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    refused.refused(429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    stage.get(&stage.operator, "/v1/whoami").await.ok();
}
