"""Simulated Brevo, Klaviyo, Mailchimp and SendGrid on loopback: their documented states, deadlines, limits and errors."""
