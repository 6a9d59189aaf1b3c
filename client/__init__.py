"""The data owner's side: training, protection, ledger, policy; nothing leaves but what ``client.protect`` releases."""
