"""Homomorphic aggregation: sites encrypt to a key holder, which decrypts only one sum per session.

packing      several fixed-point values in one plaintext slot, with room for the sum
scheme       BFV through TenSEAL's binding of SEAL: encrypt, add, decrypt
messages     the messages and the signed statements
site         a site's side, including the key holder's
coordinator  the coordinator's side: it relays sealed ciphertexts and unpacks the sum
protection   both sides behind the common interface
"""
