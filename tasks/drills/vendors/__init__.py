"""Simulated Brevo, Klaviyo, Mailchimp, SendGrid on loopback: the documented states, deadlines, limits and errors."""
