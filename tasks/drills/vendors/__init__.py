"""Simulated vendors: the documented states, deadlines, limits and errors of SendGrid and Brevo, on loopback."""
