"""One-time code mails as services send them (worded anew), and what a person would type in.

Each: name, subject, text, the codes that must come first in this order. An empty list: there is no code in it.
"""

from __future__ import annotations

CORPUS: list[tuple[str, str, str, list[str]]] = [
    ("plain", "Your code", "Your verification code is 482913. It expires in 10 minutes.", ["482913"]),
    (
        "subject only",
        "193847 is your confirmation code",
        "Enter it in the app to go on.\n\n© 2026 Example Inc.",
        ["193847"],
    ),
    ("own line", "Sign in to Example", "Hi Ann,\n\nuse this code to sign in:\n\n  7412\n\nThanks\nExample", ["7412"]),
    ("grouped", "Sign-in code", "Enter this code:\n\n123 456\n\nIf it was not you, ignore this mail.", ["123456"]),
    ("hyphen", "Your security code", "Your security code: 123-456", ["123456"]),
    ("prefixed", "G-284193 is your verification code", "G-284193 is your verification code.", ["G-284193"]),
    ("capitals and digits", "One-time passcode", "Your code is ABC123.\nDo not share it.", ["ABC123"]),
    ("two groups of both", "Device login", "Confirm with the code AB12-CD34 on your television.", ["AB12-CD34"]),
    ("letters", "Join the team", "Your confirmation code is below.\n\nconfirmation code: XKQ-PLM\n", ["XKQ-PLM"]),
    ("eight digits", "Backup", "Your one-time password is 83920174 and is valid once.", ["83920174"]),
    ("spread", "PIN", "Your PIN:\n\n4 8 2 1 9 0\n\nKeep it safe.", ["482190"]),
    ("bank", "Online banking", "Ihre TAN lautet: 604213 für den Auftrag über 1.250,00 EUR vom 03.11.2026.", ["604213"]),
    ("german", "Dein Bestätigungscode", "Hallo,\n\ndein Bestätigungscode ist 5501.\n\nViele Grüße", ["5501"]),
    ("german one-time", "Anmeldung", "Einmalpasswort: 918273\nGültig bis 14:30 Uhr.", ["918273"]),
    ("french", "Votre code", "Votre code de vérification est 640128.", ["640128"]),
    ("spanish", "Tu código", "Tu código de verificación es: 775310", ["775310"]),
    ("italian", "Codice", "Il tuo codice di verifica è 903411", ["903411"]),
    ("polish", "Logowanie", "Twój kod to 228814.", ["228814"]),
    ("russian", "Код", "Ваш код подтверждения: 447190", ["447190"]),
    ("japanese", "認証コード", "認証コード：381924\n有効期限は10分です。", ["381924"]),
    ("chinese", "验证码", "您的验证码是 667823，请勿泄露。", ["667823"]),
    (
        "order beside it",
        "Confirm your order 88213490",
        "Order 88213490, total $129.99 (paid with the card ending 4242).\n"
        "To confirm, enter the verification code 551720.\nQuestions? Call +1 555 010 9988.",
        ["551720"],
    ),
    (
        "year and zip beside it",
        "Verify your account",
        "Copyright 2026 Example, 1600 Main Street, Springfield 12345.\n\nVerification code: 2048",
        ["2048"],
    ),
    (
        "a year as the code",
        "Your login code",
        "Your login code is\n\n2024\n\nIt was asked for on 3 March 2026.",
        ["2024"],
    ),
    (
        "ticket number",
        "[#482210] Password reset",
        "Ticket #482210\n\nYour password reset code: 930022\n\nhttps://example.org/reset?code=777777",
        ["930022"],
    ),
    (
        "digits in a link are no code",
        "Verify your address",
        "Click https://example.org/verify/839201?otp=112233 to verify.\n",
        [],
    ),
    ("invoice", "Invoice 20260311", "Invoice number 20260311, amount 1,299.00 EUR, due 2026-03-31.", []),
    ("newsletter", "10,000 thanks", "Since 1998 we have sent 250000 parcels. Call 0800 123 4567.", []),
    ("tracking", "Your parcel", "Tracking number 9405511899 is on its way. ZIP 90210.", []),
    ("time and date", "Meeting", "On 2026-05-04 at 12:30, room 1402, your access begins.", []),
    (
        "many",
        "Your recovery codes",
        "Recovery codes, each good once:\n\n48120934\n77120345\n90341276\n",
        ["48120934", "77120345", "90341276"],
    ),
    (
        "marked with asterisks",
        "Code",
        "Here is your login code:\n\n*914 203*\n\nIt works for 15 minutes.",
        ["914203"],
    ),
    ("after it", "Welcome", "Enter 640913 as the verification code in your browser.", ["640913"]),
    ("token", "Login token", "Your token: 8F3K2Q\n", ["8F3K2Q"]),
    ("phone", "Your code", "Your code is 318-204. Text STOP to 72645 to end. Tel. 030 1234567.", ["318204"]),
    ("lower case", "Temporary login code", "Your temporary login code: k7f2m9", ["k7f2m9"]),
    ("dots", "Login", "Your OTP is 556677.", ["556677"]),
    ("quoted", "Login", 'Use the code "730192" to log in.', ["730192"]),
    ("two years of terms", "Security alert", "New sign-in on 3 March 2026. Security team, Example 2026.", []),
]
